"use strict";
(() => {
  const find = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const tableBody = find("#rows"), cardGrid = find("#cards"), viewer = find("#viewer");
  const headers = all(".data thead th"), columns = headers.map((th) => find("button", th).dataset.column);
  const names = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  // one item a table row, with its card where there is one
  const items = all("tr", tableBody).map((row) => ({
    row,
    card: document.getElementById(row.id.replace("row", "card")),
    number: Number(row.id.slice(4)),
    text: row.textContent.toLowerCase(),
    tags: row.dataset.tags.split(" "),
    keys: row.dataset.keys.split(" ").map((key, place) => {
      if (key !== "-") return Number(key);
      const cell = headers[place].className === "number" ? null : row.cells[place];
      return cell && cell.textContent !== "–" && !(row.className === "failed" && place) ? cell.textContent : null;
    }),
  }));
  const itemOf = (element) => items[element.dataset.place];
  items.forEach((item, place) => [item.row, item.card].forEach((part) => part && (part.dataset.place = place)));

  // ---- order: the table's heads, the list of choices and the cards stay together
  const shownOrder = [...items];
  const compare = (a, b) => (typeof a === "string" ? names.compare(a, b) : a - b);
  function sortBy(column, descending) {
    const place = columns.indexOf(column), sign = descending ? -1 : 1;
    shownOrder.sort((a, b) => {
      const x = a.keys[place], y = b.keys[place];
      if (x === null || y === null) return (x === null) - (y === null) || a.number - b.number; // unknown: always last
      return sign * compare(x, y) || a.number - b.number;
    });
    tableBody.append(...shownOrder.map((item) => item.row));
    cardGrid.append(...shownOrder.filter((item) => item.card).map((item) => item.card));
    headers.forEach((th, at) => {
      if (at === place) th.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
    const order = find("#order"), value = `${column} ${descending ? "down" : "up"}`;
    order.value = all("option", order).some((option) => option.value === value) ? value : "";
  }
  headers.forEach((th, place) =>
    find("button", th).addEventListener("click", () => {
      const sorted = th.getAttribute("aria-sort");
      // numbers begin with the largest, except Dice: there the small ones matter
      const first = th.className === "number" && columns[place] !== "dice";
      sortBy(columns[place], sorted ? sorted === "ascending" : first);
    }));
  find("#order").addEventListener("change", (event) => {
    const [column, direction] = event.target.value.split(" ");
    if (column) sortBy(column, direction === "down");
  });

  // ---- the bar that stays at the top: what is scrolled to must end below it
  const bar = find(".bar");
  new ResizeObserver(() => {
    const height = getComputedStyle(bar).position === "sticky" ? bar.offsetHeight : 0;
    document.documentElement.style.setProperty("--bar", `${height}px`);
  }).observe(bar);

  // ---- filter
  const search = find("#search"), filters = all("[data-filter]"), empty = find("#empty");
  let tag = "";
  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let rows = 0, cards = 0;
    for (const item of items) {
      const shown = (!tag || item.tags.includes(tag)) && words.every((word) => item.text.includes(word));
      item.row.hidden = !shown;
      if (item.card) item.card.hidden = !shown;
      rows += shown;
      cards += shown && item.card !== null;
    }
    filters.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.filter === tag)));
    const total = items.length.toLocaleString("en");
    find("#count").textContent = rows === items.length ? `${total} shown` : `${rows.toLocaleString("en")} of ${total} shown`;
    empty.hidden = cards > 0;
    find("p", empty).textContent = rows ? "Failed files have no picture. The table gives the reasons." : "Nothing fits the filter.";
  }
  function showAll() {
    search.value = tag = "";
    filter();
  }
  search.addEventListener("input", filter);
  filters.forEach((button) => button.addEventListener("click", () => {
    tag = button.dataset.filter;
    filter();
  }));
  find("button", empty).addEventListener("click", () => {
    showAll();
    search.focus();
  });

  // ---- layers: of all pictures, of one card, of the enlarged picture
  const layerName = (button) => `show-${button.dataset.layer}`;
  function press(buttons, picture) {
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(picture.classList.contains(layerName(button)))));
  }
  function setLayer(card, name, on) {
    const picture = find(".picture", card);
    picture.classList.toggle(name, on);
    press(all(".layers button", card), picture);
  }
  all(".bar .layer").forEach((button) => button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    for (const item of items) if (item.card) setLayer(item.card, layerName(button), on);
  }));

  // ---- from a row, or a mark of a plot, to its card and back
  function mark(item) {
    all("[aria-current]").forEach((part) => part.removeAttribute("aria-current"));
    item.row.setAttribute("aria-current", "true");
    if (item.card) item.card.setAttribute("aria-current", "true");
  }
  function toCard(item) {
    if (item.card.hidden) showAll();
    mark(item);
    item.card.focus({ preventScroll: true });
    item.card.scrollIntoView({ block: "start" });
  }
  function toRow(item) {
    mark(item);
    find("a", item.row).focus({ preventScroll: true });
    item.row.scrollIntoView({ block: "center" });
  }
  const itemAt = (hash) => {
    const card = document.getElementById(hash.slice(1));
    return card && itemOf(card);
  };
  tableBody.addEventListener("click", (event) => {
    const item = itemOf(event.target.closest("tr"));
    if (!item.card || getSelection().type === "Range") return; // a name being marked for copying
    event.preventDefault();
    toCard(item);
  });
  cardGrid.addEventListener("click", (event) => {
    const button = event.target.closest("button, a.back");
    if (!button) return;
    const item = itemOf(button.closest(".card"));
    if (button.matches(".picture")) return enlarge(item);
    if (button.matches(".back")) {
      event.preventDefault();
      return toRow(item);
    }
    setLayer(item.card, layerName(button), button.getAttribute("aria-pressed") !== "true");
  });
  all(".points").forEach((group) => {
    const marks = all("a", group);
    group.addEventListener("click", (event) => {
      event.preventDefault();
      toCard(itemAt(event.target.closest("a").getAttribute("href")));
    });
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = step && marks[marks.indexOf(document.activeElement) + step];
      if (!next) return;
      event.preventDefault();
      marks.forEach((other) => other.setAttribute("tabindex", other === next ? "0" : "-1"));
      next.focus();
    });
  });
  if (/^#card-\d+$/.test(location.hash) && itemAt(location.hash)) mark(itemAt(location.hash));

  // ---- the enlarged picture
  let open = null;
  function enlarge(item) {
    open = item;
    const picture = find(".picture", item.card).cloneNode(true), still = document.createElement("div");
    still.className = picture.className;
    still.append(...picture.childNodes);
    find(".stage", viewer).replaceChildren(still, find(".facts", item.card).cloneNode(true));
    const pill = find(".pill", item.card).textContent;
    find("h2", viewer).textContent = `${find("h3", item.card).textContent} · ${pill}`;
    press(all(".layer", viewer), still);
    if (!viewer.open) viewer.showModal();
  }
  function step(by) {
    const shown = shownOrder.filter((item) => item.card && !item.card.hidden);
    const next = shown[shown.indexOf(open) + by];
    if (next) enlarge(next);
  }
  // The browser gives the focus back to where the viewer was opened, and tells of it later ("close" is a task of its
  // own); keys pressed in between must find the image that was looked at last.
  function shut() {
    viewer.close();
    leave();
  }
  function leave() {
    if (!open || viewer.open) return;
    const { card } = open;
    mark(open);
    open = null;
    find(".picture", card).focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) return shut(); // the backdrop
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.act === "close") shut();
    else if (button.dataset.act) step(button.dataset.act === "next" ? 1 : -1);
    else {
      setLayer(open.card, layerName(button), button.getAttribute("aria-pressed") !== "true");
      enlarge(open);
    }
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") step(event.key === "ArrowRight" ? 1 : -1);
    if (event.key !== "Escape") return;
    event.preventDefault();
    shut();
  });
  viewer.addEventListener("close", leave); // closed by the browser itself, as by a phone's back gesture
})();

"use strict";
(() => {
  // A number is what a cell begins with; what is no number (n/a, a dash) goes last in both orders.
  const text = cell => (cell ? cell.textContent.trim() : "");
  const number = shown => parseFloat(shown.replace("\u2212", "-"));
  const unknown = shown => shown === "" || shown === "\u2013" || shown.startsWith("n/a");

  function compare(one, other, numeric, sign) {
    if (unknown(one) || unknown(other)) return unknown(one) - unknown(other);
    if (numeric) return sign * (number(one) - number(other));
    return sign * one.localeCompare(other, "en", { numeric: true });
  }

  function sort(table, head, column) {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, row => ({ row, shown: text(row.cells[column]) }));
    const numeric = rows.every(({ shown }) => unknown(shown) || /^[-+\u2212]?\d/.test(shown) && number(shown) === number(shown));
    rows.sort((a, b) => compare(a.shown, b.shown, numeric, sign));
    body.append(...rows.map(({ row }) => row));
    for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    for (const head of table.tHead.querySelectorAll("th[data-column]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head, Number(head.dataset.column)));
    }
  }

  // What scrolls by itself has to be reached by keyboard, and needs a name then.
  function reach(box) {
    const sideways = box.scrollWidth > box.clientWidth + 1;
    if (sideways || box.scrollHeight > box.clientHeight + 1) {
      const caption = box.querySelector("caption");
      const heading = box.closest("section")?.querySelector("h2");
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", `${(caption || heading)?.textContent.trim().slice(0, 60) ?? "Table"}, scrolls${sideways ? " sideways" : ""}`);
    } else {
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
    }
  }
  const reachAll = () => document.querySelectorAll(".scroll").forEach(reach);
  addEventListener("resize", reachAll);
  addEventListener("load", reachAll);
  document.addEventListener("toggle", reachAll, true);

  // Paper has no way to open what is closed.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const part of opened) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of opened) part.open = false;
  });
})();

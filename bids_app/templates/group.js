"use strict";
(() => {
  // Tables that can be filtered; a long one is kept as text and shown a page at a time.
  const PAGE = 100;
  const unknown = shown => shown === "" || shown === "\u2013" || shown.startsWith("n/a");
  const number = shown => parseFloat(shown.replace("\u2212", "-"));
  const words = text => text.toLowerCase().split(/\s+/).filter(Boolean);

  function make(tag, fill, ...children) {
    const made = Object.assign(document.createElement(tag), fill);
    made.append(...children);
    return made;
  }

  function toolsOf(table, filter) {
    const input = make("input", { type: "search", autocomplete: "off", spellcheck: false });
    input.setAttribute("aria-label", "Filter the rows");
    input.placeholder = "Filter: name, group, flag \u2026";
    const state = make("span", {});
    state.setAttribute("role", "status");
    const tools = make("div", { className: "tools" }, input, state);
    table.parentElement.before(tools);
    input.addEventListener("input", () => filter(words(input.value)));
    return { tools, state };
  }

  function filtered(table) {
    const rows = Array.from(table.tBodies[0].rows, row => ({ row, text: row.textContent.toLowerCase() }));
    const { state } = toolsOf(table, asked => {
      let left = 0;
      for (const { row, text } of rows) {
        row.hidden = !asked.every(word => text.includes(word));
        left += !row.hidden;
      }
      state.textContent = asked.length ? `${left} of ${rows.length} rows` : "";
    });
  }

  function paged(table) {
    const held = JSON.parse(document.getElementById(table.dataset.paged).textContent);
    const columns = held.left.length, all = held.rows;
    let kept = all, page = 0, sorted = null;
    const texts = all.map(row => row.slice(0, columns).join(" ").toLowerCase());
    const { tools, state } = toolsOf(table, asked => {
      kept = all.filter((_, n) => asked.every(word => texts[n].includes(word)));
      page = 0;
      order();
      show();
    });
    const back = make("button", { type: "button" }, "Previous"), next = make("button", { type: "button" }, "Next");
    tools.append(back, next);
    back.addEventListener("click", () => { page -= 1; show(); });
    next.addEventListener("click", () => { page += 1; show(); });

    function cell(row, n) {
      const made = document.createElement(n ? "td" : "th");
      if (!n) made.scope = "row";
      made.className = n ? (held.left[n] ? "left" : "") : "key";
      if (!n && row[columns]) made.append(make("a", { href: `${row[0]}.html` }, row[0]));
      else made.append(row[n]);
      return made;
    }

    function show() {
      const first = page * PAGE, last = Math.min(first + PAGE, kept.length);
      table.tBodies[0].replaceChildren(...kept.slice(first, last)
        .map(row => make("tr", {}, ...held.left.map((_, n) => cell(row, n)))));
      state.textContent = kept.length ? `rows ${first + 1} to ${last} of ${kept.length}` : "no rows";
      back.disabled = page === 0;
      next.disabled = last >= kept.length;
    }

    function order() {
      if (!sorted) return;
      const { column, sign } = sorted;
      const numeric = all.every(row => unknown(row[column]) || /^[-+\u2212]?\d/.test(row[column]));
      const compare = (a, b) => (unknown(a) || unknown(b) ? unknown(a) - unknown(b)
        : sign * (numeric ? number(a) - number(b) : a.localeCompare(b, "en", { numeric: true })));
      kept = [...kept].sort((a, b) => compare(a[column], b[column]));
    }

    for (const head of table.tHead.querySelectorAll("th[data-column]")) {
      const button = make("button", { type: "button", title: "Sort by this column" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        sorted = { column: Number(head.dataset.column), sign };
        page = 0;
        order();
        show();
      });
    }
    show();
  }

  for (const table of document.querySelectorAll("table[data-filtered]")) {
    (table.dataset.paged ? paged : filtered)(table);
  }
})();

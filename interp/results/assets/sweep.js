"use strict";
// Draws the charts, and the table of cells: sorted, filtered and paged here. Data reach the page
// through textContent alone.
(function () {
  const root = document.documentElement;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const PAGE = 50;

  function element(name, text, kind) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  }

  function words(column, cell) {
    if (cell === null) return "–";
    if (column.values) return column.values[cell];
    return typeof cell === "number" ? String(Number(cell.toPrecision(3))) : cell;
  }

  function before(a, b) {
    if (a === b) return 0;
    if (a === null || b === null) return a === null ? 1 : -1; // nothing stands last both ways
    return a < b ? -order.sign : order.sign;
  }

  const order = { column: -1, sign: 1 };
  let rows = [];
  let page = 0;

  function table(data) {
    const { columns } = data;
    const find = document.getElementById("find");
    const texts = data.rows.map((row) => row.map((cell, i) => words(columns[i], cell)));
    const hay = texts.map((row) => row.map((text, i) => `${columns[i].name}=${text}`.toLowerCase()));
    const places = data.rows.map((_, place) => place);
    const heads = columns.map((column, i) => head(column, i));
    const picks = columns.map((column, i) => pick(column, i));

    function head(column, i) {
      const made = element("th", undefined, column.number ? "" : "left");
      const button = element("button", column.name);
      button.type = "button";
      button.addEventListener("click", () => {
        order.sign = order.column === i ? -order.sign : 1;
        order.column = i;
        filter();
      });
      made.scope = "col";
      made.append(button);
      return made;
    }

    function pick(column, i) {
      if (!column.pick) return null;
      const made = element("select");
      made.append(element("option", "all"));
      for (const value of column.values) made.append(element("option", value));
      const label = element("label", `${column.name} `);
      label.append(made);
      document.getElementById("picks").append(label);
      made.addEventListener("change", filter);
      return made;
    }

    function meets(place, word) {
      const name = word.slice(0, word.indexOf("=") + 1);
      const known = name && columns.some((column) => `${column.name.toLowerCase()}=` === name);
      return hay[place].some((text) => (known ? text === word : text.includes(word)));
    }

    function filter() {
      const asked = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      const chosen = picks.map((each) => (each ? each.selectedIndex - 1 : -1));
      rows = places.filter(
        (place) =>
          chosen.every((value, i) => value < 0 || data.rows[place][i] === value) &&
          asked.every((word) => meets(place, word))
      );
      if (order.column >= 0) {
        rows.sort((a, b) => before(data.rows[a][order.column], data.rows[b][order.column]));
      }
      page = 0;
      show();
    }

    function line(place) {
      const made = element("tr");
      texts[place].forEach((text, i) => {
        const cell = element("td", i ? text : text.slice(0, 12), columns[i].number ? "" : "left");
        if (!i) cell.title = text;
        if (columns[i].state) cell.classList.add(`state${data.rows[place][i]}`);
        made.append(cell);
      });
      return made;
    }

    function show() {
      const first = page * PAGE;
      const shown = rows.slice(first, first + PAGE);
      document.getElementById("cells-body").replaceChildren(...shown.map(line));
      const count = rows.length.toLocaleString("en");
      const range = shown.length ? `${first + 1} to ${first + shown.length} of ` : "";
      const all = data.rows.length.toLocaleString("en");
      const rest = rows.length < data.rows.length ? ` that fit, of ${all}` : "";
      document.getElementById("count").textContent = `${range}${count} cells${rest}`;
      document.getElementById("back").disabled = page === 0;
      document.getElementById("next").disabled = first + PAGE >= rows.length;
      heads.forEach((each, i) => {
        const way = order.sign > 0 ? "ascending" : "descending";
        each.setAttribute("aria-sort", i === order.column ? way : "none");
      });
      root.dataset.shown = rows.length;
    }

    function turn(by) {
      page += by;
      show();
    }

    function reset() {
      find.value = "";
      for (const each of picks) if (each) each.selectedIndex = 0;
      order.column = -1;
      filter();
    }

    const top = element("tr");
    top.append(...heads);
    document.getElementById("cells-head").append(top);
    find.addEventListener("input", filter);
    document.getElementById("back").addEventListener("click", () => turn(-1));
    document.getElementById("next").addEventListener("click", () => turn(1));
    document.getElementById("reset").addEventListener("click", reset);
    root.dataset.cells = data.rows.length;
    filter();
  }

  function draw() {
    const config = { responsive: true, displaylogo: false };
    config.displayModeBar = window.matchMedia("(hover: hover)").matches ? "hover" : false;
    config.modeBarButtonsToRemove = ["select2d", "lasso2d", "autoScale2d"];
    const drawn = Object.entries(read("charts-data")).map(([id, chart]) =>
      Plotly.newPlot(id, chart.data, chart.layout, config)
    );
    Promise.all(drawn).then(() => {
      root.dataset.charts = drawn.length;
      root.dataset.ready = "1";
    });
  }

  if (document.getElementById("cells-data")) table(read("cells-data"));
  // The plotting library is read after this script, so that the table does not wait for it.
  document.addEventListener("DOMContentLoaded", draw);
})();

"use strict";
// Draws the charts and shows a step's details. Data reach the page through textContent alone.
(function () {
  const root = document.documentElement;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const details = new Map(Object.entries(read("steps-data")));
  const spans = [...document.querySelectorAll("[data-key]")];
  const tip = document.getElementById("tip");

  function element(name, text, kind) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  }

  function row(name, cells) {
    const line = element("tr");
    line.append(...cells.map((text, place) => element(place ? name : "th", text)));
    return line;
  }

  function fill(detail) {
    const list = element("dl");
    for (const [label, value] of detail.lines) {
      list.append(element("dt", label), element("dd", value));
    }
    const table = element("table");
    const contexts = ["Context intact", "Context perturbed"];
    table.append(row("th", ["Pr(y*)", "Step intact", "Step perturbed"]));
    detail.cells.forEach((cells, place) => table.append(row("td", [contexts[place], ...cells])));
    tip.replaceChildren(element("h3", detail.title), list, table);
  }

  function place(span) {
    const box = span.getClientRects()[0];
    if (window.innerWidth < 640) {
      tip.style.left = tip.style.top = ""; // the style sheet keeps it at an edge of the screen
      tip.classList.toggle("above", box.top > window.innerHeight / 2);
      return;
    }
    const room = window.innerHeight - box.bottom;
    const top = room > tip.offsetHeight + 16 ? box.bottom + 8 : box.top - tip.offsetHeight - 8;
    const left = Math.min(box.left, window.innerWidth - tip.offsetWidth - 16);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  }

  function show(span) {
    const detail = details.get(span.dataset.key);
    if (!detail) return;
    fill(detail);
    tip.hidden = false;
    span.setAttribute("aria-describedby", "tip");
    place(span);
  }

  function hide(span) {
    tip.hidden = true;
    span.removeAttribute("aria-describedby");
  }

  for (const span of spans) {
    span.addEventListener("mouseenter", () => show(span));
    span.addEventListener("mouseleave", () => hide(span));
    span.addEventListener("focus", () => show(span));
    span.addEventListener("blur", () => hide(span));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
  });

  const boxes = [...document.querySelectorAll(".filters input[type=checkbox]")];
  const slider = document.getElementById("slider");

  function ticked(name) {
    return boxes.filter((box) => box.checked && box.dataset[name]).map((box) => box.dataset[name]);
  }

  function filter() {
    const only = ticked("only");
    const hidden = ticked("hide");
    const least = Number(slider.value);
    let shown = 0;
    for (const span of spans) {
      const flags = span.dataset.flags.split(" ");
      const keep =
        Number(span.dataset.tts) >= least &&
        only.every((flag) => flags.includes(flag)) &&
        !hidden.some((flag) => flags.includes(flag));
      span.classList.toggle("off", !keep);
      span.tabIndex = keep ? 0 : -1;
      shown += keep;
    }
    document.getElementById("least").textContent = least.toFixed(3);
    document.getElementById("shown").textContent = `${shown} of ${spans.length} steps shown.`;
    root.dataset.shown = shown;
  }

  function reset() {
    for (const box of boxes) box.checked = false;
    slider.value = "0";
    filter();
  }

  function unfold(open) {
    for (const chain of document.querySelectorAll("details.chain")) chain.open = open;
  }

  if (slider) {
    for (const input of [...boxes, slider]) input.addEventListener("input", filter);
    document.getElementById("reset").addEventListener("click", reset);
    document.getElementById("open").addEventListener("click", () => unfold(true));
    document.getElementById("close").addEventListener("click", () => unfold(false));
    filter();
  }

  const config = { responsive: true, displaylogo: false };
  config.displayModeBar = window.matchMedia("(hover: hover)").matches ? "hover" : false;
  config.modeBarButtonsToRemove = ["select2d", "lasso2d", "autoScale2d"];
  const drawn = Object.entries(read("charts-data")).map(([id, chart]) =>
    Plotly.newPlot(id, chart.data, chart.layout, config)
  );
  root.dataset.steps = spans.length;
  Promise.all(drawn).then(() => {
    root.dataset.charts = drawn.length;
    root.dataset.ready = "1";
  });
})();

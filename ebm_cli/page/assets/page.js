"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const palettes = [
    ["#2166ac", "#d1495b", "#2a9d5c", "#b8860b", "#7b4fb0", "#00838f", "#c2571a", "#5d6d7e", "#ad1457", "#558b2f"],
    ["#6ea8dc", "#ff8a8a", "#6fcf97", "#e3b341", "#b99cf0", "#4dd0e1", "#ffab73", "#a9b4c0", "#f48fb1", "#aed581"],
  ];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shown = (v) => v == null ? "–" : String(Number(v.toPrecision(5)));
  const begun = new Map();

  function colour(chart, series, faint) {
    if (chart.shades) {
      const most = Math.max(1, chart.series.length - 1), share = series.colour / most;
      const light = dark.matches ? 35 + 45 * share : 78 - 50 * share;
      return `hsl(212 65% ${light}%)`;
    }
    const palette = palettes[Number(dark.matches)], found = palette[series.colour % palette.length];
    return faint ? found + "55" : found;
  }

  function line(chart, series) {
    const faint = series.style === "faint", points = series.style === "points";
    return {
      label: series.label, stroke: colour(chart, series, faint), width: points ? 0 : faint ? 1 : 1.6, spanGaps: true,
      dash: series.style === "dashed" ? [6, 4] : undefined, value: (u, v) => shown(v),
      points: points ? { show: true, size: 7, fill: colour(chart, series, false) } : undefined,
      paths: points ? () => null : undefined,
    };
  }

  function axes(chart, width) {
    const style = { stroke: css("--soft"), grid: { stroke: css("--grid"), width: 1 }, ticks: { stroke: css("--grid") } };
    const font = "12px system-ui, sans-serif", words = chart.ticks;
    const x = { ...style, font, label: chart.x || undefined, labelFont: font, labelSize: 18, size: chart.ticks.some((t) => t.includes("\n")) ? 48 : 32 };
    if (words.length) {
      const narrow = width / words.length < 90;
      x.splits = () => words.map((_, i) => i);
      x.values = (u, at) => at.map((i) => narrow ? (words[i] ?? "").split("\n")[0] : words[i] ?? "");
      if (narrow) Object.assign(x, { rotate: -60, size: 110 });
    }
    return [x, { ...style, font, size: 62, values: (u, at) => at.map((v) => v == null ? "" : shown(v)) }];
  }

  function draw(figure) {
    const chart = charts[figure.dataset.chart], before = begun.get(figure);
    const width = figure.clientWidth;
    if (!width) return;
    const range = before && before.zoom;
    if (before) before.plot.destroy();
    const log = before ? before.log : chart.log, place = figure.querySelector(".plot");
    const words = chart.ticks.length;
    const options = {
      width, height: chart.ticks.length && width / chart.ticks.length < 90 ? 320 : 240, series: [{ label: chart.x || "axis", value: (u, v) => words ? (chart.ticks[v] ?? "–").split("\n")[0] : shown(v) },
        ...chart.series.map((s) => line(chart, s))],
      scales: { x: words ? { time: false, range: (u, low, high) => [low - 0.25, high + 0.25] } : { time: false }, y: { distr: log ? 3 : 1 } }, axes: axes(chart, width),
      legend: { show: chart.series.length <= 24 && chart.series.every((s) => s.style !== "points") },
      cursor: { drag: { x: true, y: false }, sync: chart.group ? { key: chart.group, setSeries: false } : undefined, focus: { prox: 24 } },
      focus: { alpha: chart.series.length > 3 ? 0.25 : 1 },
    };
    options.hooks = { setScale: [(u, key) => { if (key === "x") figure.dataset.range = `${u.scales.x.min} ${u.scales.x.max}`; }] };
    const plot = new uPlot(options, chart.data, place);
    const state = { plot, log, zoom: range };
    if (range) plot.setScale("x", range);
    plot.hooks.setSelect = [() => { state.zoom = { min: plot.posToVal(plot.select.left, "x"), max: plot.posToVal(plot.select.left + plot.select.width, "x") }; }];
    plot.over.addEventListener("dblclick", () => { state.zoom = null; });
    begun.set(figure, state);
  }

  function furnish(figure) {
    const chart = charts[figure.dataset.chart], tools = document.createElement("span"), place = document.createElement("div");
    tools.className = "tools";
    place.className = "plot";
    const button = (text, act) => {
      const made = document.createElement("button");
      made.type = "button";
      made.textContent = text;
      made.addEventListener("click", () => act(made));
      tools.append(made);
      return made;
    };
    button("whole", () => { const s = begun.get(figure); if (s) { s.zoom = null; draw(figure); } });
    if (chart.positive && !chart.ticks.length) {
      const made = button("log", () => {
        const s = begun.get(figure);
        s.log = !s.log;
        made.setAttribute("aria-pressed", s.log);
        draw(figure);
      });
      made.setAttribute("aria-pressed", chart.log);
    }
    figure.querySelector("figcaption").prepend(tools);
    figure.append(place);
  }

  const figures = [...document.querySelectorAll(".chart")];
  figures.forEach(furnish);
  const fresh = () => figures.forEach((figure) => { if (!begun.has(figure)) draw(figure); });  // of those that are open
  fresh();
  document.addEventListener("toggle", fresh, true);
  const again = () => { for (const figure of begun.keys()) draw(figure); };
  dark.addEventListener("change", again);
  let waits = 0, wide = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === wide) return;
    wide = innerWidth;
    clearTimeout(waits);
    waits = setTimeout(again, 150);
  });

  function compare(one, other) {
    const a = Number(one), b = Number(other), numbers = one !== "" && other !== "" && !isNaN(a) && !isNaN(b);
    return numbers ? a - b : one.localeCompare(other, "en", { numeric: true });
  }

  function sort(table, column, heading) {
    const up = heading.getAttribute("aria-sort") === "descending", body = table.tBodies[0];
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...body.rows].sort((one, other) => {
      const empty = (value(one) === "") - (value(other) === "");
      return empty || (up ? 1 : -1) * compare(value(one), value(other));
    });
    for (const each of table.querySelectorAll("th")) each.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) =>
      heading.firstElementChild.addEventListener("click", () => sort(table, column, heading)));
  }

  const open = () => {
    const found = location.hash && document.querySelector(`${location.hash} > details`);
    if (found) found.open = true;
  };
  addEventListener("hashchange", open);
  open();
})();

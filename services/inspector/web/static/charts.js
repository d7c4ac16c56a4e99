// Line charts on uPlot in the page's own colours; those with the same x are pointed at, and zoomed, together. A chart is { x: label, lines: [{ label, student, points: [[x, y, low, high]] }] }.
"use strict";

const HEIGHT = 200;
const DASHES = [[], [6, 4], [2, 3], [8, 3, 2, 3], [1, 3]];

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function faded(hex, share) {
  return hex + Math.round(255 * share).toString(16).padStart(2, "0");
}

// One x for all lines, null where a line has no point.
function table(lines) {
  const xs = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  const column = (line, at) => {
    const byX = new Map(line.points.map((point) => [point[0], point[at] ?? null]));
    return xs.map((x) => byX.get(x) ?? null);
  };
  return { xs, column };
}

function series(lines, column) {
  const found = [], data = [], bands = [];
  for (const line of lines) {
    const stroke = colour(line.colour);
    found.push({ label: line.label, stroke, width: 1.75, dash: DASHES[line.dash ?? 0], points: { size: 5 }, spanGaps: true,
      value: (_, value) => (value == null ? "" : String(+value.toPrecision(3))) });
    data.push(column(line, 1));
    if (!line.points.some((point) => point[2] != null)) continue;
    for (const at of [3, 2]) {
      found.push({ label: "", stroke: faded(stroke, 0.25), width: 1, points: { show: false }, spanGaps: true, class: "bound" });
      data.push(column(line, at));
    }
    bands.push({ series: [found.length - 1, found.length], fill: faded(stroke, 0.1) });
  }
  return { found, data, bands };
}

function axis(label) {
  const ink = colour("--muted");
  return { label, labelSize: 18, labelFont: "12px system-ui", font: "11px system-ui", stroke: ink,
    grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1, size: 4 } };
}

// Not uPlot's own, which end after three decimals: a share of 0.0005 and its half would both be 0.
function marks(_, splits) {
  return splits.map((value) => value.toLocaleString("en", { maximumSignificantDigits: 6 }));
}

function room(_, values) {
  return Math.max(44, 14 + 7 * Math.max(0, ...(values ?? []).map((text) => text.length)));
}

const plots = new WeakMap(); // of each figure

// uPlot itself keeps every plot that it was not told to give up.
function erase(figure) {
  plots.get(figure)?.destroy();
  plots.delete(figure);
}

function draw(figure, chart) {
  const place = figure.querySelector(".plot");
  erase(figure);
  figure.hidden = !chart.lines.some((line) => line.points.length);
  if (figure.hidden) return;
  const { xs, column } = table(chart.lines);
  const { found, data, bands } = series(chart.lines, column);
  const whole = (_, splits) => splits.map((x) => (Number.isInteger(x) ? x : ""));
  const within = (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]);
  const plot = new uPlot({
    width: Math.max(place.clientWidth, 200), height: HEIGHT, bands, legend: { live: true },
    cursor: { points: { size: 7 }, sync: { key: chart.x } },
    scales: { x: { time: false, range: within }, y: { range: (_, low, high) => (chart.range ? chart.range : uPlot.rangeNum(chart.from === null ? low : Math.min(0, low), high, 0.1, true)) } },
    axes: [{ ...axis(chart.x), size: 34, values: whole, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }, { ...axis(""), size: room, values: marks }],
    series: [{ label: chart.x, value: (_, value) => value ?? "" }, ...found],
  }, [xs, ...data], place);
  plots.set(figure, plot);
  return plot;
}

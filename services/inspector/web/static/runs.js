// The chosen runs over each other: a chart for each figure of each student, a line for each run. Figures are /v1/runs.
"use strict";

const TINTS = 6; // --r0 … in page.css; further runs have the same ones with dashes
const AGAIN_MS = 10000;
const KEPT = ["match", "unanchored"];
const FIGURES = [
  ["Loss", (step) => step.metrics.loss], ["Gradient norm", (step) => step.metrics.grad_norm],
  ["Active share", (step) => step.metrics.active_share, [0, 1]], ["Clipped share", (step) => step.metrics.clipped_share],
  ["|Δ log-prob| engine to trainer, nats", (step) => step.metrics.delta_logprob], ["Wall seconds of a step", (step) => step.wall_s],
];
const view = document.getElementById("view");

function smoothed(points, weight) {
  let mean = null;
  return points.map(([x, y]) => [x, (mean = mean === null ? y : weight * mean + (1 - weight) * y)]);
}

function line(run, at, points) {
  return { label: run.run, colour: `--r${at % TINTS}`, dash: Math.floor(at / TINTS), points };
}

function overRuns(runs, points) {
  return runs.map((run, at) => line(run, at, points(run)));
}

function deliveredShare(run, student) {
  const steps = new Map();
  for (const row of run.verdicts.filter((v) => v.student === student)) {
    const [kept, all] = steps.get(row.step) ?? [0, 0];
    steps.set(row.step, [kept + (KEPT.includes(row.verdict) ? row.count : 0), all + row.count]);
  }
  return [...steps].map(([step, [kept, all]]) => [step, kept / all]);
}

function charts(runs, weight) {
  const students = [...new Set(runs.flatMap((run) => Object.keys(run.versions)))].sort();
  const domains = [...new Set(runs.flatMap((run) => run.scores.map((score) => score.domain)))];
  return students.flatMap((student) => [
    ...domains.map((domain) => ({ title: `${student}: validation score in ${domain}`, x: "rounds done", range: [0, 1],
      lines: overRuns(runs, (run) => run.scores.filter((s) => s.student === student && s.domain === domain && s.split === "validation")
        .map((s) => [s.round - 1, s.score])) })),
    { title: `${student}: share of feedback delivered`, x: "step", range: [0, 1],
      lines: overRuns(runs, (run) => smoothed(deliveredShare(run, student), weight)) },
    ...FIGURES.map(([title, pick, range]) => ({ title: `${student}: ${title}`, x: "step", range,
      lines: overRuns(runs, (run) => smoothed(run.steps.filter((step) => step.student === student)
        .map((step) => [step.step, pick(step)]).filter((point) => point[1] != null), weight)) })),
  ]);
}

let runs = [];
let drawn = [];

function zoom() {
  const [from, to] = ["from", "to"].map((name) => view.elements[name].value.trim()).map((text) => (text === "" ? null : Number(text)));
  for (const [plot, chart] of drawn) {
    if (chart.x !== "step") continue;
    const xs = plot.data[0];
    const [min, max] = [from ?? xs[0], to ?? xs[xs.length - 1]];
    if (min < max) plot.setScale("x", { min, max });
  }
}

function redraw() {
  const place = document.getElementById("charts");
  place.querySelectorAll("figure").forEach(erase);
  place.replaceChildren();
  drawn = [];
  for (const chart of charts(runs, Number(view.elements.smoothing.value))) {
    const figure = document.getElementById("chart").content.cloneNode(true).querySelector("figure");
    figure.querySelector("figcaption").textContent = chart.title;
    figure.querySelector(".plot").setAttribute("aria-label", chart.title);
    place.append(figure);
    const plot = draw(figure, chart);
    if (plot) drawn.push([plot, chart]);
  }
  zoom();
}

async function begin() {
  const found = await figures(`/v1/runs${location.search}`);
  if (!found) return void setTimeout(begin, AGAIN_MS);
  runs = found.chosen;
  document.getElementById("overlaid").hidden = false;
  redraw();
}

if (view) {
  begin();
  view.addEventListener("submit", (event) => event.preventDefault());
  view.elements.smoothing.addEventListener("input", redraw);
  for (const name of ["from", "to"]) view.elements[name].addEventListener("input", zoom);
  view.addEventListener("reset", () => setTimeout(redraw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
}

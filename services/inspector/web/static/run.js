// The charts of a run, from the same figures as its tables (/v1/run); drawn again when a step or a round is done.
"use strict";

const REFRESH_MS = 10000;
const TINTS = ["--a", "--b", "--r2", "--r3", "--r4", "--r5", "--r6", "--r7"];
const STAGE_TINTS = ["--s0", "--s1", "--s2", "--s3"];

let shown = null;
let asking = false;

// The lines of a run, and dashed those of the run beside it; `lines` makes them of either.
function both(run, lines) {
  const other = run.beside ? lines(run.beside) : [];
  return [...lines(run), ...other.map((line) => ({ ...line, label: `${line.label}, ${run.beside.run}`, dash: line.dash ? 2 : 1 }))];
}

function byStudent(run, pick) {
  return both(run, (one) => Object.keys(run.students).map((student, index) => ({
    label: student, colour: TINTS[index % TINTS.length],
    points: one.steps.filter((step) => step.student === student).map((step) => [step.step, pick(step)]).filter((point) => point[1] != null),
  })));
}

// Intervals are drawn for the run's own scores and gaps alone: four bands on top of each other cannot be read.
function scores(run, domain) {
  return both(run, (one) => Object.keys(run.students).map((student, at) => ({
    label: student, colour: TINTS[at % TINTS.length],
    points: one.scores.filter((s) => s.student === student && s.domain === domain && s.split === "validation")
      .map((s) => [s.round - 1, s.score, ...(one === run ? s.interval ?? [] : [])]),
  })));
}

// A line for each pair of tutor and tutee, as the gate decides of each; two students are told apart by the tutor alone.
function gaps(run) {
  const named = (gate, pair) => (Object.keys(gate.scores).length === 2 ? pair.tutor : `${pair.tutor} to ${pair.student}`);
  const all = (one) => one.gates.flatMap((gate) => gate.pairs.map((pair) => ({ round: gate.round, name: named(gate, pair), pair })));
  return both(run, (one) => [
    ...[...new Set(all(one).map((each) => each.name))].map((name, index) => ({
      label: name, colour: TINTS[index % TINTS.length],
      points: all(one).filter((each) => each.name === name)
        .map(({ round, pair }) => [round, pair.gap, ...(one === run ? pair.interval : [])]),
    })),
    { label: "τ", colour: "--ink", dash: 1, points: one.gates.map((gate) => [gate.round, gate.tau]) },
  ]);
}

function delivered(run) {
  return both(run, (one) => Object.keys(run.students).map((student, index) => {
    const steps = new Map();
    for (const row of one.verdicts.filter((v) => v.student === student)) {
      const [kept, all] = steps.get(row.step) ?? [0, 0];
      steps.set(row.step, [kept + (["match", "unanchored"].includes(row.verdict) ? row.count : 0), all + row.count]);
    }
    return { label: student, colour: TINTS[index % TINTS.length], points: [...steps].map(([step, [kept, all]]) => [step, kept / all]) };
  }));
}

// Stages that take a moment only would hide the others' names.
function stages(run, student) {
  const steps = run.steps.filter((step) => step.student === student);
  const names = [...new Set(steps.flatMap((step) => Object.keys(step.metrics.seconds)))];
  const longest = (name) => Math.max(...steps.map((step) => step.metrics.seconds[name] ?? 0));
  return names.sort((a, b) => longest(b) - longest(a)).slice(0, STAGE_TINTS.length).map((name, at) => ({
    label: name, colour: STAGE_TINTS[at], points: steps.map((step) => [step.step, step.metrics.seconds[name] ?? 0]),
  }));
}

function charts(run) {
  const sum = (metrics) => Object.values(metrics.seconds).reduce((a, b) => a + b, 0);
  const figure = (name, range) => ({ x: "step", range, lines: byStudent(run, (step) => step.metrics[name]) });
  const ofDomain = run.domains.map((domain, at) => [`scores-${at}`, { x: "rounds done", lines: scores(run, domain), range: [0, 1] }]);
  const ofTrainer = Object.keys(run.students).map((student) => [`stages-${student}`, { x: "step", lines: stages(run, student) }]);
  return {
    ...Object.fromEntries([...ofDomain, ...ofTrainer]),
    gaps: { x: "round", lines: gaps(run) },
    delivered: { x: "step", lines: delivered(run), range: [0, 1] },
    loss: figure("loss"), grad_norm: figure("grad_norm"), active_share: figure("active_share", [0, 1]),
    effective_sample_share: { ...figure("effective_sample_share"), from: null }, clipped_share: figure("clipped_share"),
    delta_logprob: figure("delta_logprob"),
    wall: { x: "step", lines: byStudent(run, (step) => step.wall_s) },
    trainer_tokens: { x: "step", lines: byStudent(run, ({ metrics }) => metrics.tokens / Math.max(sum(metrics), 1e-9)) },
  };
}

function redraw() {
  if (!shown) return;
  const drawn = charts(shown);
  document.querySelectorAll("[data-chart]").forEach((figure) => {
    figure.hidden = false; // its width is asked for
    draw(figure, drawn[figure.dataset.chart]);
  });
}

function finished(run) {
  return ["DONE", "FAILED"].includes(run.status);
}

// What the page's tables were made of, as the page says it of itself.
function made(run) {
  return `${run.steps.length} ${run.scores.length} ${run.status ?? ""}`;
}

async function refresh() {
  if (document.hidden || asking || (shown && finished(shown))) return;
  asking = true;
  const run = await figures(`/v1/run${location.search}`);
  asking = false;
  if (!run) return;
  const changed = !shown || made(run) !== made(shown);
  shown = run;
  if (changed) redraw();
  // Tables are the server's. The reader says when: to load the page anew takes away where one was in it.
  const news = document.getElementById("news");
  news.hidden = made(run) === news.dataset.made;
}

let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.addEventListener("visibilitychange", refresh);
setInterval(refresh, REFRESH_MS);
refresh();

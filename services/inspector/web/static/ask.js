// Around what htmx does: an empty list for a new question, a word while the peers think, and what was asked before, which
// only this browser keeps. The form works without.
"use strict";

const KEPT = 20;
const place = `asked ${document.querySelector(".run-name").textContent}`;
const asked = document.getElementById("asked");
let asking = null; // the question under way

function wait(on) {
  document.getElementById("waiting").hidden = !on;
  document.querySelector("#ask-form button").disabled = on;
}

// Nothing is kept where the browser keeps nothing, or holds what is no list.
function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(place) ?? "[]");
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

function keep(list) {
  try {
    localStorage.setItem(place, JSON.stringify(list));
  } catch {
    return;
  }
  show();
}

function again(problem) {
  const field = document.querySelector("#ask-form textarea");
  field.value = problem;
  field.focus();
}

// What was said is put in as text, never as markup.
function show() {
  const list = kept();
  asked.hidden = list.length === 0;
  asked.querySelector("div").replaceChildren(...list.map(({ problem, said }) => {
    const entry = asked.querySelector("template").content.cloneNode(true).querySelector("details");
    entry.querySelector("summary").textContent = String(problem);
    // Not by an address: what a question may have is more than one holds.
    entry.querySelector("button").addEventListener("click", () => again(String(problem)));
    for (const text of said) {
      const stage = document.createElement("pre");
      stage.className = "text";
      stage.textContent = String(text);
      entry.append(stage);
    }
    return entry;
  }));
}

// Each stage as it reads without what is gone from it.
function saidNow() {
  return [...document.querySelectorAll("#stages > li")].map((stage) => {
    const copy = stage.cloneNode(true);
    copy.querySelectorAll("del").forEach((gone) => gone.remove());
    const heading = copy.querySelector("h2")?.textContent.trim().replace(/\s+/g, " ");
    return [heading, (copy.querySelector("pre") ?? copy).textContent].filter(Boolean).join("\n");
  });
}

function done() {
  wait(false);
  const said = saidNow();
  if (asking && said.length) keep([{ problem: asking, said }, ...kept().filter((each) => each.problem !== asking)].slice(0, KEPT));
  asking = null;
}

// In the place of what did not come. It is kept as an answer is, so that a question survives the login.
function failed(event) {
  const [stage, said] = [document.createElement("li"), document.createElement("p")];
  said.className = "warning";
  said.setAttribute("role", "alert");
  said.textContent = reasonOf(event.detail.ctx ?? {});
  stage.append(said);
  document.getElementById("stages").append(stage);
}

document.addEventListener("htmx:before:request", () => {
  document.getElementById("stages").replaceChildren();
  asking = document.querySelector("#ask-form textarea").value.trim();
  wait(true);
});
document.addEventListener("htmx:sse:close", done);
document.addEventListener("htmx:finally:request", done);
document.addEventListener("htmx:error", failed);
document.addEventListener("htmx:response:error", failed);
document.getElementById("forget").addEventListener("click", () => keep([]));
show();

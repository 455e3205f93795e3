// Takes the parts of the page that have changed from a newer one. All text was escaped where the page was made.
"use strict";

const EVERY = 2000; // milliseconds between two looks
const PATIENCE = 10000; // milliseconds for an answer
const gone = document.getElementById("gone");
const said = document.getElementById("said");
const report = document.getElementById("report");
const chosen = new Map(); // id of what somebody opened or closed, and which of the two
let since = null; // since when nobody answers

function take(part, newer) {
  newer.querySelectorAll("details").forEach((one) => { one.open = chosen.get(one.id) ?? one.open; });
  if (part.outerHTML === newer.outerHTML) return;
  const inside = part.contains(document.activeElement) ? document.activeElement : null;
  const focused = inside && [...part.querySelectorAll("a, summary")].indexOf(inside);
  part.replaceWith(document.adoptNode(newer));
  if (inside) newer.querySelectorAll("a, summary")[focused]?.focus();
}

function takeAll(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  const main = document.querySelector("main");
  const selected = !document.getSelection().isCollapsed; // somebody is copying
  for (const newer of [...page.querySelectorAll("[data-part]")]) {
    const part = document.getElementById(newer.id);
    if (!part) main.append(document.adoptNode(newer));
    else if (!(selected && document.getSelection().containsNode(part, true))) take(part, newer);
  }
  document.title = page.title;
  const state = document.querySelector("h1").textContent;
  if (said.textContent !== state) said.textContent = state; // read out, once for each state
}

document.addEventListener("click", (event) => {
  const details = event.target.closest("summary")?.parentElement;
  if (details) chosen.set(details.id, !details.open);
});

async function look() {
  if (!document.hidden) {
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error(String(answer.status));
      takeAll(await answer.text());
      since = null;
      gone.hidden = true;
    } catch {
      since ??= new Date().toLocaleTimeString();
      const end = report ? " If the run is finished, its report is there: " + report.textContent.replace(/^.*will be /, "") : "";
      const text = "Nobody has answered since " + since + ": what is shown is of before that." + end;
      if (gone.textContent !== text) gone.textContent = text;
      gone.hidden = false;
    }
  }
  setTimeout(look, EVERY);
}

setTimeout(look, EVERY);

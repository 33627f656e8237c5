"use strict";
// Asks for the state once a second and for each line's picture when there is a new one. No library, nothing from
// elsewhere: it works in a factory without internet. Text is only ever set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const LEAST = 60; // frames that the strip and the chart are wide
const cards = new Map();
let missed = 0;

function make(name, words = {}, text = "") {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(words)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function short(number) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  return size >= 1e4 || (size < 1e-3 && size > 0) ? number.toExponential(2) : Number(number.toPrecision(4)).toString();
}

const grouped = (number) => number.toLocaleString("en").replaceAll(",", "\u202f");

function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; number >= 1000 && unit < 4; unit += 1) number /= 1000;
  return `${number.toPrecision(3)} ${units[unit]}`;
}

function card(index) {
  if (!cards.has(index)) {
    const copy = $("line").content.cloneNode(true).firstElementChild;
    const image = copy.querySelector("img");
    const entry = { root: copy, image, number: -1, loading: false, find: (name) => copy.querySelector(name) };
    image.addEventListener("load", () => { entry.loading = false; image.hidden = false; entry.find(".none").hidden = true; });
    image.addEventListener("error", () => { entry.loading = false; entry.number = -1; });
    const button = copy.querySelector(".part button");
    button.addEventListener("click", () => ask(button, "/api/trigger", { source: entry.source }, "Triggered"));
    $("lines").append(copy);
    cards.set(index, entry);
  }
  return cards.get(index);
}

function chart(svg, line) {
  const scores = line.history.map((each) => each[1]).filter((score) => score !== null);
  const low = Math.min(0, line.threshold, ...scores);
  const high = Math.max(line.threshold * 1.25, line.threshold + 1e-9, ...scores);
  const y = (score) => 104 - ((score - low) / (high - low)) * 98;
  const step = 480 / (Math.max(LEAST, line.history.length) - 1);
  const start = 480 - step * (line.history.length - 1);
  let path = "", dots = "", gaps = "", drawing = false;
  line.history.forEach(([, score, state], place) => {
    const x = (start + step * place).toFixed(1);
    if (score === null) { gaps += `M${x} 104h0`; drawing = false; return; }
    path += `${drawing ? "L" : "M"}${x} ${y(score).toFixed(1)}`;
    drawing = true;
    if (state === "anomalous") dots += `M${x} ${y(score).toFixed(1)}h0`;
  });
  const parts = { line: path, dots, gaps, threshold: `M0 ${y(line.threshold).toFixed(1)}H480` };
  for (const [name, d] of Object.entries(parts)) {
    let part = svg.querySelector(`.${name}`);
    if (!part) { part = document.createElementNS(SVG, "path"); part.setAttribute("class", name); svg.append(part); }
    part.setAttribute("d", d);
  }
  svg.setAttribute("aria-label", `scores of the last ${line.history.length} frames, threshold ${short(line.threshold)}`);
}

function strip(svg, line) {
  const found = { normal: "", anomalous: "", invalid: "" };
  const step = 240 / Math.max(LEAST, line.history.length);
  const start = 240 - step * line.history.length;
  const wide = (step > 2 ? step * 0.92 : step).toFixed(3); // no gaps where they would be thinner than a pixel
  line.history.forEach(([, , state], place) => { found[state] += `M${(start + step * place).toFixed(2)} 0h${wide}v10h-${wide}z`; });
  for (const [name, d] of Object.entries(found)) {
    let part = svg.querySelector(`.${name}`);
    if (!part) { part = document.createElementNS(SVG, "path"); part.setAttribute("class", name); svg.append(part); }
    part.setAttribute("d", d);
  }
  const bad = line.history.filter((each) => each[2] === "anomalous").length;
  svg.setAttribute("aria-label", `${bad} of the last ${line.history.length} frames are anomalous`);
}

function pairs(list, rows) {
  while (list.children.length > rows.length) list.lastChild.remove();
  rows.forEach(([name, value], place) => {
    if (!list.children[place]) { const div = make("div"); div.append(make("dt"), make("dd")); list.append(div); }
    put(list.children[place].children[0], name);
    put(list.children[place].children[1], value);
  });
}

function why(line) {
  const parts = [];
  if (line.latched) parts.push("latched: waits for an acknowledgement");
  if (line.of > 1) parts.push(`${line.bad_votes} of the last ${line.voted} frames bad, ${line.votes} of ${line.of} make an alarm`);
  if (line.condition !== "running") parts.push(line.condition + (line.reason ? `: ${line.reason}` : ""));
  else if (line.reason) parts.push(line.reason);
  if (line.state === "invalid" && line.why) parts.push(line.why);
  if (!line.valid && line.live && line.age !== null && line.condition === "running") parts.push(`newest judged frame is ${span(line.age)} old`);
  return parts.join(" · ");
}

function showLine(line, index) {
  const entry = card(index);
  entry.source = line.source;
  put(entry.find("h2"), line.source);
  entry.find("h2").title = line.source;
  put(entry.find(".pill"), line.answer);
  entry.find(".pill").className = `pill ${line.answer}`;
  entry.root.classList.toggle("isbad", line.answer === "bad");
  put(entry.find(".value"), short(line.score));
  put(entry.find(".of"), `score, threshold ${short(line.threshold)}`);
  put(entry.find(".why"), why(line));
  entry.find(".part").hidden = !line.triggered;
  put(entry.find(".part .last"), line.parts ? `part ${line.part}, ${grouped(line.parts)} decided` : "no part decided yet");
  chart(entry.find(".chart"), line);
  strip(entry.find(".strip"), line);
  entry.find(".value").classList.toggle("anomalous", line.state === "anomalous");
  const stale = line.live && !line.valid && line.age !== null;
  entry.find(".picture").classList.toggle("stale", stale);
  put(entry.find(".old"), stale ? (line.state === "invalid" && line.condition === "running" ? "not judged" : `${span(line.age)} old`) : "");
  put(entry.find(".oldest"), line.history.length >= LEAST ? `frame ${grouped(line.history[0][0])}` : "");
  put(entry.find(".newest"), line.history.length ? `frame ${grouped(line.history.at(-1)[0])}` : "");
  const dropped = Object.values(line.dropped).reduce((sum, count) => sum + count, 0);
  const rows = [["captured", grouped(line.captured)], ["scored", grouped(line.scored)], ["anomalous", grouped(line.anomalous)]];
  rows.push(["invalid", grouped(line.invalid)], ["dropped", grouped(dropped)]);
  rows.push(["outages", line.outages ? `${grouped(line.outages)} (${span(line.outage_seconds)})` : "0"]);
  if (line.restarts) rows.push(["restarts", grouped(line.restarts)]);
  pairs(entry.find(".counts"), rows);
  const stages = entry.find(".stages");
  const parts = Object.entries(line.latency).map(([stage, [median, worst]]) => {
    const part = make("span", { title: "median, and what 99 % stay within" }, `${stage} `);
    part.append(make("b", {}, short(Number(median.toFixed(1)))), ` / ${short(Number(worst.toFixed(1)))} ms`);
    return part;
  });
  stages.replaceChildren(...parts);
  if (line.number !== entry.number && !entry.loading && !document.hidden) {
    entry.loading = true;
    entry.number = line.number;
    entry.image.src = `/api/frame/${index}.jpg?n=${line.number}`;
    entry.image.alt = `newest frame of ${line.source}, ${line.state}`;
  }
}

function time(seconds) {
  const when = new Date(seconds * 1000);
  const day = when.toDateString() === new Date().toDateString() ? "" : `${when.toLocaleDateString("sv")} `;
  return day + when.toLocaleTimeString("sv");
}

async function ask(button, path, body, done) {
  const label = button.textContent;
  button.disabled = true;
  const answer = await fetch(path, { method: "POST", body: JSON.stringify(body) }).catch(() => null);
  put(button, answer && answer.ok ? done : "not possible now");
  setTimeout(() => { put(button, label); button.disabled = false; }, 1500);
}

function enlarge(event) {
  $("large-picture").src = `/api/event/${event.id}.jpg`;
  const names = { id: event.id, time: new Date(event.wall * 1000).toLocaleString("sv"), source: `${event.source} #${event.seq}`,
    state: event.state, score: `${short(event.score)}, threshold ${short(event.threshold)}`, reason: event.reason,
    regions: event.regions.map((region) => `${region.box[2]} × ${region.box[3]} at ${region.box[0]}, ${region.box[1]}`).join("; "),
    millimetres: event.mm.map((row) => `${row[2]} × ${row[3]} mm`).join("; "), photo: event.path, engine: event.engine, "threshold seal": event.seal };
  const rows = Object.entries(names).filter(([, value]) => value);
  $("large-text").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  $("large").showModal();
}

function eventRow({ event, open }, button) {
  const row = make("div", { class: "event" });
  const thumb = make("button", { class: "thumb", "aria-label": "enlarge" });
  if (event.image) thumb.append(make("img", { src: `/api/event/${event.id}.jpg`, alt: "", loading: "lazy" }));
  else { thumb.disabled = true; thumb.textContent = "no picture"; }
  thumb.addEventListener("click", () => enlarge(event));
  const text = make("div");
  const score = event.score === null ? "" : ` · ${short(event.score)}`;
  text.append(make("p", { class: `what ${event.state}` }, (event.kind === "verdict" ? "" : `${event.kind} · `) + event.state + score));
  text.append(make("p", { class: "muted" }, `${time(event.wall)} · ${event.source}${event.seq < 0 ? "" : ` #${event.seq}`}`));
  const reason = event.reason + (open && !button ? " · waits for an acknowledgement" : "");
  if (reason) text.append(make("p", { class: "muted" }, reason));
  if (button) {
    const act = make("button", { class: "act" }, "Acknowledge");
    act.addEventListener("click", () => ask(act, "/api/acknowledge", { id: event.id }, "Acknowledged"));
    text.append(act);
  }
  row.append(thumb, text);
  return row;
}

function showEvents(state) {
  const key = state.events.map(({ event, open }) => event.id + open).join();
  if ($("events").dataset.key === key) return;
  $("events").dataset.key = key;
  const none = make("p", { class: "muted" }, state.store ? "nothing has happened yet" : "none are kept: --out DIR, or [events]");
  // an acknowledgement is for the alarms of its line up to that one: one button a line, at the newest
  const asked = new Set();
  const rows = state.events.map((each) => {
    const first = each.open && !asked.has(each.event.source);
    if (first) asked.add(each.event.source);
    return eventRow(each, first);
  });
  $("events").replaceChildren(...(rows.length ? rows : [none]));
}

function showSinks(state) {
  const head = make("tr");
  for (const name of ["", "written", "waiting", ""]) head.append(make("th", {}, name));
  const rows = [];
  const add = (name, done, waiting, failing, lost) => {
    const row = make("tr");
    const gone = Object.entries(lost).map(([reason, count]) => `${grouped(count)} lost: ${reason}`).join("; ");
    row.append(make("td", {}, name), make("td", { class: "number" }, grouped(done)), make("td", { class: "number" }, grouped(waiting)));
    row.append(make("td", { class: failing || gone ? "failing" : "muted" }, failing || gone || "works"));
    rows.push(row);
  };
  if (state.store) add(`store, ${bytes(state.store.bytes)} of ${grouped(state.store.events)} events`, state.store.stored, state.store.waiting, state.store.failing, state.store.lost);
  for (const sink of state.sinks) add(sink.name, sink.sent, sink.waiting, sink.failing, sink.lost);
  $("ways").hidden = !rows.length;
  $("sinks").replaceChildren(head, ...rows);
}

function show(state) {
  put($("station"), state.station);
  document.title = `${state.station} · mtkd-edge`;
  const answers = state.lines.map((line) => line.answer);
  const worst = ["bad", "invalid", "good"].find((answer) => answers.includes(answer)) || "invalid";
  put($("overall"), worst);
  $("overall").className = `pill ${worst}`;
  put($("link"), `up ${span(state.up)}`);
  state.lines.forEach(showLine);
  showEvents(state);
  showSinks(state);
  const trouble = state.store && state.store.failing ? [`Events cannot be written: ${state.store.failing}. Scoring goes on.`] : [];
  for (const sink of state.sinks) if (sink.failing) trouble.push(`${sink.name}: ${sink.failing}`);
  $("trouble").hidden = !trouble.length;
  put($("trouble"), trouble.join(" · "));
  const restarts = state.engine_restarts ? ` · engine restarted ${grouped(state.engine_restarts)} times` : "";
  put($("footer"), `mtkd-edge ${state.version} · ${state.engine} · threshold ${state.threshold}${restarts}`);
}

async function look() {
  try {
    const answer = await fetch("/api/state", { signal: AbortSignal.timeout(5000) });
    if (answer.status === 401) { location.href = "/login"; return; }
    if (!answer.ok) throw new Error(answer.status);
    show(await answer.json());
    missed = 0;
  } catch (error) {
    missed += 1;
    if (missed >= 2) {  // what is on the screen is old: say so, and never leave a "good" standing
      put($("link"), "no connection");
      for (const pill of document.querySelectorAll(".pill")) { put(pill, "unknown"); pill.className = "pill invalid"; }
    }
  }
  setTimeout(look, document.hidden ? 5000 : 500);
}

look();

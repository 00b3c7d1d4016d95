"use strict";

// The page asks for status.json once a second while it can be seen, and counts down by itself in between.

const every = 1000; // ms between two requests
const patience = 5000; // ms that one may take

const $ = (id) => document.getElementById(id);

const states = {
  ready: ["Healthy", "#1f9d61"],
  degraded: ["Degraded", "#c98a00"],
  starting: ["Starting", "#808890"],
  lost: ["No login possible", "#d6453a"],
  stalled: ["Not answering", "#d6453a"],
  closed: ["Closed", "#808890"],
};

// What comes next: what it is counted down to, and what it is called while it is under way.
const steps = {
  renew: ["until renewal", "renewing"],
  rotate: ["until rotation", "rotating"],
  refresh: ["until it is looked for a new one", "looking for a new one"],
  issue: ["until a credential is asked for", "asking for a credential"],
  probe: ["until the new one is tried again", "trying the new credential"],
  start: ["until the first credential is asked for", "asking for the first credential"],
};

let report = null; // the newest answer
let skew = 0; // the service's clock less ours, in ms
let lostSince = null; // when the service stopped answering
let timer = 0;
let shownSeq = -1;

const now = () => Date.now() + skew;
const until = (time) => (Date.parse(time) - now()) / 1000;

function element(tag, properties = {}, ...children) {
  const e = Object.assign(document.createElement(tag), properties);
  e.append(...children.filter((c) => c !== null && c !== ""));
  return e;
}

function setText(id, text) {
  const e = typeof id === "string" ? $(id) : id;
  if (e.textContent !== text) e.textContent = text;
}

function setHidden(id, hidden) {
  if ($(id).hidden !== hidden) $(id).hidden = hidden;
}

// duration shows the two largest units.
function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const i = Math.max(0, units.findIndex(([, size]) => s >= size));
  if (s === 0) return "0 s";
  const [[name, size], smaller] = [units[i], units[i + 1]];
  const rest = smaller ? Math.floor((s % size) / smaller[1]) : 0;
  return `${Math.floor(s / size)} ${name}${rest > 0 ? ` ${rest} ${smaller[0]}` : ""}`;
}

function clock(time) {
  const d = new Date(time);
  const t = d.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  if (Math.abs(now() - d.getTime()) < 20 * 3600 * 1000) return t;
  return `${d.toLocaleDateString([], { month: "short", day: "numeric" })} ${t}`;
}

const count = (n, one, many = one + "s") => `${n} ${n === 1 ? one : many}`;
const share = (part, whole) => `${Math.min(100, Math.max(0, whole > 0 ? (100 * part) / whole : 0)).toFixed(2)}%`;

// The head: one word, and what it means just now.

function showState() {
  const [name, colour] = states[report.state] ?? [report.state, "#808890"];
  $("state").dataset.state = report.state;
  setText("state-name", report.paused && report.state === "ready" ? `${name}, paused` : name);
  setText("summary", summary());
  document.title = `${name} – ${report.title}`;
  const icon = document.querySelector("link[rel=icon]");
  const href = icon.href.replace(/(stroke|fill)='%23[0-9a-f]{6}'/, `$1='%23${colour.slice(1)}'`);
  if (icon.href !== href) icon.href = href;
}

function summary() {
  const parts = [];
  const which = `generation ${report.generation}`;
  switch (report.state) {
    case "ready":
      parts.push(`New connections log in with ${which}.`);
      break;
    case "degraded":
      parts.push(`Logins still work, with ${which}${report.lease ? `, until ${clock(report.lease.expires)}` : ""}.`);
      break;
    case "starting":
      parts.push("There is no credential yet.");
      break;
    case "lost":
      parts.push(`The credential of ${which} has ended or is refused, and there is no other yet. Connections that are open go on; new ones fail at once.`);
      break;
    case "stalled":
      parts.push(report.as_of ? `The rotator does not answer. What you see is from ${clock(report.as_of)}.` : "The rotator does not answer.");
      break;
    case "closed":
      parts.push("The rotator is closed: nothing is issued or renewed any more.");
      break;
  }
  if (report.paused && !report.closed) parts.push("It is paused: no credential is issued until it is resumed.");
  for (const g of report.generations) {
    if (g.state !== "draining" && g.state !== "ending") continue;
    const by = g.drain_by ? `, until ${clock(g.drain_by)} at the latest` : "";
    parts.push(g.state === "ending"
      ? `Generation ${g.generation} is past its drain deadline: its last ${count(g.connections, "connection")} are being ended.`
      : `Generation ${g.generation} is draining: ${count(g.connections, "connection")} left${by}.`);
  }
  return parts.join(" ");
}

function failing(f) {
  switch (f.step) {
    case "renew": return `Renewing generation ${f.generation} fails`;
    case "issue": return "Issuing a credential fails";
    case "probe": return `Logging in with generation ${f.generation} fails`;
    case "revoke": return `Revoking generation ${f.generation} fails`;
    case "cap": return "Too many leases to issue another";
    default: return "The last step failed";
  }
}

function showProblems() {
  const list = report.failures;
  setHidden("problems", list.length === 0);
  $("problem-list").replaceChildren(...list.map((f) => {
    const often = f.count > 1 ? `${f.count} times since ${clock(f.since)}` : `since ${clock(f.since)}`;
    const retry = f.retry_at ? (until(f.retry_at) > 0.5 ? `, again in ${duration(until(f.retry_at))}` : ", being tried again") : "";
    return element("li", {},
      element("p", { className: "what" }, element("strong", { textContent: failing(f) }), ` ${often}${retry}`),
      element("p", { className: "error", textContent: f.error }));
  }));
}

// The lease: how much of its time has passed, when something is due, and from when on it is replaced.

function showLease() {
  const { lease, next } = report;
  const bar = $("bar");
  const over = report.closed || report.generation === 0;
  const step = steps[next.action];
  if (over || !step) {
    setText("next", "–");
    setText("next-label", "nothing is planned");
  } else if (next.under_way || until(next.at) < 0.5) {
    setText("next", "now");
    setText("next-label", step[1]);
  } else {
    setText("next", duration(until(next.at)));
    setText("next-label", report.state === "lost" || report.state === "starting" ? "until the next attempt" : step[0]);
  }
  bar.dataset.state = report.state;
  if (!lease || over) {
    setText("left", "–");
    setText("left-label", over ? "no lease" : "no end is known");
    for (const id of ["granted", "expires", "reserve-label"]) setText(id, "");
    $("elapsed").style.width = $("reserve").style.width = "0";
    setHidden("mark", true);
    bar.setAttribute("aria-valuenow", "0");
    bar.setAttribute("aria-valuetext", over ? "no lease" : "no end is known");
    return;
  }
  const left = until(lease.expires);
  const whole = lease.ttl_seconds;
  setText("left", left > 0 ? duration(left) : "ended");
  setText("left-label", left > 0 ? `left of ${duration(whole)}` : `at ${clock(lease.expires)}`);
  $("elapsed").style.width = share(whole - left, whole);
  $("reserve").style.width = share((Date.parse(lease.expires) - Date.parse(lease.rotate_at)) / 1000, whole);
  setText("granted", `granted ${clock(lease.granted)}`);
  setText("reserve-label", left > 0 ? "kept for a rotation" : "");
  setText("expires", `${left > 0 ? "ends" : "ended"} ${clock(lease.expires)}`);
  const due = next.at ? (Date.parse(next.at) - Date.parse(lease.granted)) / 1000 : -1;
  setHidden("mark", !(due >= 0 && due <= whole));
  $("mark").style.left = share(due, whole);
  $("mark").title = next.at ? `${next.action} at ${clock(next.at)}` : "";
  bar.setAttribute("aria-valuenow", String(Math.round(Math.min(100, Math.max(0, (100 * (whole - left)) / whole)))));
  bar.setAttribute("aria-valuetext", left > 0
    ? `${duration(left)} left of ${duration(whole)}; ${next.action}${next.at ? ` at ${clock(next.at)}` : " now"}`
    : "the lease has ended");
}

// The generations, newest first, on one axis of time that ends now.

const names = { issued: "being tried", current: "current", draining: "draining", ending: "being ended", revoking: "being revoked", retired: "retired" };

function showGenerations() {
  const list = report.generations.slice().reverse();
  const starts = list.map((g) => Date.parse(g.issued ?? g.published ?? g.draining)).filter((t) => t > 0);
  const from = Math.min(...starts, now() - 1000);
  const rows = list.map((g) => generationRow(g, from));
  if (rows.length === 0) rows.push(element("li", { className: "none", textContent: "None yet." }));
  $("generations").replaceChildren(...rows);
  setText("axis-from", starts.length ? clock(from) : "");
  setText("counts", `${count(report.connections, "connection")} · ${count(report.unrevoked, "lease")} held`);
}

function generationRow(g, from) {
  const end = g.retired ? Date.parse(g.retired) : now();
  const at = (time, other) => (time ? Date.parse(time) : other);
  const drained = at(g.drained, end);
  const draining = at(g.draining, g.state === "retired" ? drained : end);
  const serving = Math.min(at(g.published, at(g.issued, from)), draining);
  const lost = g.state === "current" && !report.usable; // open connections are all it has left
  const ended = lost ? Math.min(at(g.expires, draining), draining) : draining;
  const track = element("div", { className: "track", ariaHidden: "true" });
  for (const [kind, start, stop] of [["serving", serving, ended], ["over", ended, draining], ["draining", draining, drained], ["revoking", drained, end]]) {
    if (stop <= start) continue;
    const part = element("div", { className: `part ${kind}` });
    part.style.left = share(Math.max(start, from) - from, now() - from);
    part.style.width = share(Math.min(stop, now()) - Math.max(start, from), now() - from);
    track.append(part);
  }
  const pools = g.pools.filter((p) => p.connections > 0).map((p) => `${p.name}: ${p.connections}`);
  const row = element("li", {},
    element("p", { className: "name" },
      element("span", { className: "number", textContent: `#${g.generation}` }), " ",
      element("span", { className: "stage", textContent: lost ? "no logins" : names[g.state] ?? g.state })),
    track,
    element("p", { className: "detail" },
      element("span", { className: "connections", textContent: g.state === "retired" ? `for ${duration((end - at(g.issued, serving)) / 1000)}` : count(g.connections, "connection") }),
      pools.length ? element("span", { className: "pools", textContent: pools.join(", ") }) : null,
      g.reason ? element("span", { textContent: `replaced: ${g.reason}` }) : null,
      g.user ? element("span", { className: "user", textContent: g.user }) : null));
  row.dataset.state = lost ? "lost" : g.state;
  row.dataset.generation = g.generation;
  return row;
}

// The events, newest first.

function showEvents() {
  const events = report.events;
  const newest = events.length ? events[events.length - 1].seq : 0;
  const e = report.last_error;
  setText("last-error", e ? `last error at ${clock(e.at)}: ${e.event}` : "no error so far");
  if (newest === shownSeq) return;
  shownSeq = newest;
  const rows = grouped(events).slice(0, 40).map(eventRow);
  if (rows.length === 0) rows.push(element("li", { className: "none", textContent: "None since this page's service began to listen." }));
  $("events").replaceChildren(...rows);
}

// grouped turns them round, with those in a row that say the same as one.
function grouped(events) {
  const groups = [];
  for (const e of events.slice().reverse()) {
    const last = groups.at(-1);
    if (last && e.error && ["kind", "generation", "reason", "error"].every((k) => last[k] === e[k])) {
      last.times++;
      last.first = e.time;
    } else {
      groups.push({ ...e, times: 1, first: e.time });
    }
  }
  return groups;
}

function eventRow(e) {
  const facts = [];
  if (e.reason) facts.push(e.reason);
  if (e.ttl_seconds) facts.push(`for ${duration(e.ttl_seconds)}`);
  if (e.connections) facts.push(count(e.connections, "connection"));
  if (e.times === 1 && e.took_seconds >= 0.001) facts.push(e.took_seconds < 10 ? `took ${Math.round(e.took_seconds * 1000)} ms` : `took ${duration(e.took_seconds)}`);
  if (e.times > 1) facts.push(`${e.times} times since ${clock(e.first)}`);
  else if (e.attempt > 1) facts.push(`attempt ${e.attempt}`);
  if (e.missed) facts.push(`${count(e.missed, "event")} missed before`);
  const row = element("li", {},
    element("time", { dateTime: e.time, textContent: clock(e.time) }),
    element("span", { className: "of", textContent: e.generation ? `#${e.generation}` : "" }),
    element("div", {},
      element("span", { className: "kind", textContent: e.kind }), " ",
      element("span", { className: "facts", textContent: facts.join(", ") }),
      e.error ? element("p", { className: "error", textContent: e.error }) : null));
  row.dataset.kind = e.kind;
  row.dataset.bad = e.error ? "yes" : "no";
  return row;
}

// Asking and showing.

function show() {
  showState();
  showProblems();
  showLease();
  showGenerations();
  showEvents();
}

function tick() {
  if (!report || lostSince || document.hidden) return;
  if (report.state !== "stalled" && !report.closed) {
    showProblems();
    showLease();
    showGenerations();
  }
}

function showConnection() {
  document.body.dataset.live = lostSince || !report ? "no" : "yes";
  setHidden("offline", !lostSince);
  if (lostSince) {
    setText("offline", report
      ? `No connection to the service since ${clock(lostSince)}. What you see is what was known then; it is tried again.`
      : "No connection to the service; it is tried again.");
  }
  if (report) setText("updated", `Updated ${clock(report.now)}`);
}

async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const answer = await fetch("status.json", { cache: "no-store", signal: AbortSignal.timeout(patience) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    report = await answer.json();
    skew = Date.parse(report.now) - Date.now();
    lostSince = null;
    show();
  } catch {
    lostSince ??= now();
  }
  showConnection();
  clearTimeout(timer);
  timer = setTimeout(refresh, lostSince || report?.closed ? 3 * every : every);
}

async function rotate(event) {
  const button = event.currentTarget;
  button.disabled = true;
  setText("rotate-answer", "Rotating: a new credential is issued and tried.");
  try {
    const answer = await fetch("rotate", { method: "POST" });
    const said = await answer.json();
    const texts = { rotated: `Rotated: generation ${said.generation} serves.`, "under way": "A rotation is under way." };
    setText("rotate-answer", texts[said.status] ?? `Not rotated: ${said.error}`);
  } catch {
    setText("rotate-answer", "Not known whether it rotated: the service did not answer.");
  }
  button.disabled = false;
  refresh();
}

document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
$("rotate")?.addEventListener("click", rotate);
setInterval(tick, every / 2);
refresh();

// The panel of `%jobs -w`, an anywidget (https://anywidget.dev/en/afm/): plain JavaScript, no build.
//
// All that is shown came from jobs and goes in as text, never as markup. A Store belongs to one
// widget and takes its messages; each View of it draws. Elapsed times tick here, from start times.

const ENDED = new Set(["finished", "failed", "cancelled"]);
const STATES = new Set(["queued", "running", "cancelling", ...ENDED]);
const FILTERS = [
  ["all", "All", () => true],
  ["running", "Running", (row) => !ENDED.has(row.state)],
  ["failed", "Failed", (row) => row.state === "failed"],
];
const PAGE = 500; // rows that are put into the page at a time
const ACK_EVERY = 100; // messages; the kernel stops sending when it hears nothing for long
const GUARD = 800; // ms in which a button that just took another's place does nothing
const LANES = 14; // of the timeline; what does not fit is older
const ON_TIMELINE = 150; // jobs, the newest
const LOG_LIMIT = 200_000; // characters of an open log

class Store {
  constructor(model) {
    this.model = model;
    this.client = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) =>
      b.toString(16).padStart(2, "0"),
    ).join("");
    this.rows = new Map((model.get("rows") ?? []).map((row) => [row.n, row]));
    this.current = this.previous = null;
    this.left = {}; // how long groups will still take, by name
    this.cell = null; // the one that runs in the foreground, if it can be sent to the background
    this.live = false; // whether a kernel answers
    this.over = "";
    this.skew = 0; // seconds the kernel's clock is ahead of ours
    this.views = new Set();
    this.received = 0;
    this.looked = "[]";
    this.onMessage = (message) => this.receive(message);
    model.on("msg:custom", this.onMessage);
  }

  now() {
    return Date.now() / 1000 + this.skew;
  }

  send(kind, fields = {}) {
    this.model.send({ kind, client: this.client, ...fields });
  }

  add(view) {
    this.views.add(view);
    if (this.views.size === 1) this.send("open");
  }

  remove(view) {
    this.views.delete(view);
    this.look();
    if (!this.views.size) this.send("close");
  }

  close() {
    this.model.off("msg:custom", this.onMessage);
    if (this.views.size) this.send("close");
  }

  receive(message) {
    if (++this.received % ACK_EVERY === 0) this.send("ack");
    if (message.kind === "news") this.news(message);
    else if (message.kind === "said") for (const view of this.views) view.say(message.text);
    else if (message.kind === "over") {
      this.over = message.text;
      this.live = false;
      for (const view of this.views) view.update(new Set());
    }
  }

  news(message) {
    const ahead = message.now - Date.now() / 1000;
    // What comes late makes the kernel's clock look late: the largest is nearest to the truth.
    this.skew = this.live && !message.reset ? Math.max(this.skew, ahead) : ahead;
    this.live = true;
    this.over = "";
    if (message.reset) {
      this.rows.clear();
      this.looked = "[]";
    }
    const changed = new Set();
    for (const row of message.rows) {
      const before = this.rows.get(row.n);
      if (before && !ENDED.has(before.state) && ENDED.has(row.state)) row.guard = Date.now() + GUARD;
      this.rows.set(row.n, row);
      changed.add(row.n);
    }
    for (const n of message.gone) this.rows.delete(n);
    Object.assign(this.left, message.left);
    for (const mark of [this.current, this.previous, message.current, message.previous])
      if (mark !== null) changed.add(mark);
    this.current = message.current;
    this.previous = message.previous;
    this.cell = message.cell;
    for (const view of this.views) {
      view.update(changed);
      for (const log of message.logs) view.log(log);
    }
    this.look();
  }

  // Tell the kernel which rows are in sight: only those need their last line.
  look() {
    const numbers = new Set();
    for (const view of this.views) for (const n of view.inSight) numbers.add(n);
    const looked = JSON.stringify([...numbers].filter((n) => this.rows.has(n)).slice(0, 300).sort());
    if (looked === this.looked || !this.live) return;
    this.looked = looked;
    this.send("look", { jobs: JSON.parse(looked) });
  }

  // A log is wanted as long as a view shows it.
  wantLog(n, wanted) {
    if (!wanted && [...this.views].some((view) => view.shownLog === n)) return;
    this.send("log", { job: n, open: wanted });
  }
}

class View {
  constructor(store, el) {
    this.store = store;
    this.filter = "all";
    this.limit = PAGE;
    this.lines = new Map(); // number, or @ and the name of a group -> what is in the page for this row
    this.unfolded = new Set(); // groups that are open
    this.inSight = new Set();
    this.shownLog = null;
    this.root = make("div", { class: "bgp", role: "group", "aria-label": "Background jobs" });
    this.root.append(this.head(), this.table(), this.logPane());
    el.append(this.root);
    this.sight = new IntersectionObserver((entries) => this.seen(entries));
    this.clock = setInterval(() => this.tick(), 1000);
    store.add(this);
    this.update(new Set());
  }

  close() {
    clearInterval(this.clock);
    clearTimeout(this.looking);
    this.sight.disconnect();
    this.inSight.clear();
    if (this.shownLog !== null) this.openLog(null);
    this.store.remove(this);
  }

  head() {
    const filters = make("div", { class: "filters", role: "group", "aria-label": "Filter" });
    this.filters = FILTERS.map(([key, word]) => {
      const button = make("button", { type: "button" });
      button.onclick = () => this.choose(key);
      button.label = word;
      filters.append(button);
      return button;
    });
    this.said = make("div", { class: "said", role: "status", "aria-live": "polite", dir: "auto" });
    this.strip = svg("svg", { class: "strip", "aria-hidden": "true" });
    this.strip.onclick = (event) => this.reveal(Number(event.target.dataset?.n));
    this.from = make("span");
    this.until = make("span");
    this.axis = make("div", { class: "axis", "aria-hidden": "true" }, this.from, this.until);
    return make("div", {}, make("div", { class: "head" }, filters, this.said), this.strip, this.axis);
  }

  table() {
    const cells = ["#", "State", "Place", "Name", "Time", "Progress, result or last line", "Actions"];
    const heads = cells.map((text) => make("span", { role: "columnheader" }, text));
    const head = make("div", { role: "row", class: "row heads" }, ...heads);
    this.front = make("div", { role: "rowgroup" });
    this.body = make("div", { role: "rowgroup" });
    this.empty = make("div", { class: "empty" });
    this.more = make("button", { type: "button", class: "more" });
    this.more.onclick = () => {
      this.limit += PAGE;
      this.update(new Set());
    };
    this.grid = make("div", { role: "table", "aria-label": "Jobs" }, head, this.front, this.body);
    return make("div", { class: "scroll" }, this.grid, this.empty, this.more);
  }

  logPane() {
    this.logName = make("bdi", { dir: "auto" });
    const close = make("button", { type: "button", "aria-label": "Close the log" }, "Close");
    close.onclick = () => this.openLog(null);
    this.logText = make("pre", { tabindex: "0", role: "log", "aria-live": "off", dir: "auto" });
    this.pane = make("section", { class: "log", hidden: "", "aria-label": "Log" });
    this.logNumber = make("span");
    const title = make("b", {}, "Log of ", this.logNumber, ": ", this.logName);
    this.pane.append(make("div", { class: "head" }, title, close));
    this.pane.append(this.logText);
    this.pane.onkeydown = (event) => {
      if (event.key === "Escape") this.openLog(null);
    };
    return this.pane;
  }

  choose(filter) {
    this.filter = filter;
    this.limit = PAGE;
    this.update(new Set());
  }

  say(text) {
    this.said.textContent = text;
    this.said.title = text;
  }

  // Bring the page up to date: the rows in `changed`, and which rows there are.
  update(changed) {
    const rows = [...this.store.rows.values()].sort((a, b) => b.n - a.n);
    FILTERS.forEach(([key, , fits], i) => {
      const button = this.filters[i];
      setText(button, `${button.label} ${rows.filter(fits).length.toLocaleString()}`);
      button.setAttribute("aria-pressed", String(key === this.filter));
    });
    const fits = FILTERS.find(([key]) => key === this.filter)[2];
    const chosen = rows.filter(fits);
    this.showCell(this.store.live && this.filter !== "failed" ? this.store.cell : null);
    const entries = this.folded(chosen);
    this.arrange(entries.slice(0, this.limit), changed);
    this.grid.setAttribute("aria-rowcount", String(entries.length + 1));
    const rest = entries.length - this.limit;
    this.more.hidden = rest <= 0;
    if (rest > 0) setText(this.more, `Show ${Math.min(rest, PAGE)} more of ${rest.toLocaleString()}`);
    this.empty.hidden = chosen.length > 0;
    const none = rows.length ? `No job is ${this.filter}.` : "No jobs yet: %bg f() launches one.";
    setText(this.empty, none);
    this.root.classList.toggle("still", !this.store.live);
    if (this.store.over) this.say(this.store.over);
    this.draw(rows);
  }

  // The rows with each group in one of its own, at the place of its newest job; open, they follow.
  folded(rows) {
    const groups = new Map();
    for (const row of rows) {
      if (row.group == null) continue;
      if (!groups.has(row.group)) groups.set(row.group, []);
      groups.get(row.group).push(row);
    }
    const entries = [];
    for (const row of rows) {
      const jobs = groups.get(row.group);
      if (!jobs || jobs.length < 2) entries.push(row);
      else if (jobs[0] === row) {
        entries.push({ n: `@${row.group}`, group: row.group, jobs });
        if (this.unfolded.has(row.group)) entries.push(...jobs);
      }
    }
    return entries;
  }

  newGroup({ n, group }) {
    const cell = (name, ...content) => make("span", { role: "cell", class: name }, ...content);
    const line = { row: null, bar: make("span", { class: "bar", role: "progressbar", "aria-valuemax": "100" }) };
    line.fill = make("span");
    line.bar.append(line.fill);
    line.percent = make("span", { class: "percent" });
    line.counts = make("span");
    line.fold = make("button", { type: "button" });
    line.cancel = make("button", { type: "button", "aria-label": `Cancel all of group ${group}` }, "Cancel all");
    line.fold.onclick = () => {
      if (!this.unfolded.delete(group)) this.unfolded.add(group);
      this.update(new Set([n]));
    };
    line.cancel.onclick = () => this.store.send("cancel all", { group });
    line.state = make("span", { class: "word" });
    line.el = make("div", { role: "row", class: "row group", "data-n": n });
    line.el.append(
      cell("number"), cell("state", line.state), cell("place"), cell("name", make("bdi", { dir: "auto" }, n)),
      cell("time"), cell("last", line.percent, line.bar, line.counts), cell("do", line.fold, line.cancel),
    );
    return line;
  }

  patchGroup(line, { group, jobs }) {
    const counts = new Map();
    let done = 0;
    for (const row of jobs) {
      counts.set(row.state, (counts.get(row.state) ?? 0) + 1);
      done += ENDED.has(row.state) ? 1 : (row.fraction ?? 0);
    }
    const goesOn = jobs.some((row) => !ENDED.has(row.state));
    const state = !goesOn ? (counts.has("failed") ? "failed" : "finished") : counts.has("running") ? "running" : "queued";
    setText(line.state, state);
    line.state.className = `word ${state}`;
    const percent = Math.floor((done / jobs.length) * 100 + 1e-9);
    line.bar.hidden = line.percent.hidden = !goesOn;
    setText(line.percent, `${percent}%`);
    line.bar.setAttribute("aria-valuenow", String(percent));
    line.bar.setAttribute("aria-label", `Progress of group ${group}`);
    line.fill.style.width = `${percent}%`;
    const words = [...STATES].filter((word) => counts.has(word)).map((word) => `${counts.get(word).toLocaleString("en")} ${word}`);
    const left = (goesOn && this.store.left[group]) || "";
    setText(line.counts, [`${jobs.length.toLocaleString("en")} jobs`, ...words, left].filter(Boolean).join(", "));
    line.counts.title = line.counts.textContent;
    const open = this.unfolded.has(group);
    setText(line.fold, open ? "Fold" : "Open");
    line.fold.setAttribute("aria-expanded", String(open));
    line.fold.setAttribute("aria-label", `${open ? "Fold" : "Open"} group ${group}`);
    line.cancel.hidden = !goesOn;
    line.cancel.disabled = !this.store.live;
  }

  // The cell in the foreground is a row above the jobs; its button makes it one of them.
  showCell(cell) {
    if (cell?.id === this.front.dataset.cell) return;
    this.front.replaceChildren();
    if (!cell) return delete this.front.dataset.cell;
    this.front.dataset.cell = cell.id;
    const button = make("button", { type: "button" }, "Background");
    button.setAttribute("aria-label", `Send cell ${cell.number}, ${cell.name}, to the background`);
    button.onclick = () => {
      button.disabled = true;
      this.store.send("background", { cell: cell.id });
    };
    const content = {
      number: `[${cell.number}]`, state: make("span", { class: "word running" }, "running"), place: "cell",
      name: make("bdi", { dir: "auto", title: cell.name }, cell.name), time: "", last: "in the foreground", do: button,
    };
    const cells = Object.entries(content).map(([name, it]) => make("span", { role: "cell", class: name }, it));
    this.front.append(make("div", { role: "row", class: "row front" }, ...cells));
    this.tickCell();
  }

  tickCell() {
    const { cell } = this.store;
    const time = this.front.querySelector(".time");
    if (cell && time) setText(time, elapsed(Math.floor(this.store.now() - cell.started), true));
  }

  arrange(rows, changed) {
    const keep = new Set(rows.map((row) => row.n));
    for (const [n, line] of this.lines) {
      if (keep.has(n)) continue;
      this.sight.unobserve(line.el);
      line.el.remove();
      this.lines.delete(n);
      this.inSight.delete(n);
    }
    let next = this.body.firstChild;
    for (const row of rows) {
      let line = this.lines.get(row.n);
      if (row.jobs) {
        if (!line) this.lines.set(row.n, (line = this.newGroup(row)));
        this.patchGroup(line, row);
      } else if (!line) {
        line = this.newLine(row);
        this.lines.set(row.n, line);
        this.sight.observe(line.el);
        this.patch(line, row);
      } else if (changed.has(row.n) || line.row !== row) this.patch(line, row);
      if (line.el === next) next = next.nextSibling;
      else this.body.insertBefore(line.el, next);
    }
    if (this.shownLog !== null && !this.store.rows.has(this.shownLog)) this.openLog(null);
  }

  newLine(row) {
    const cell = (name, ...content) => make("span", { role: "cell", class: name }, ...content);
    const line = { row, number: make("span"), place: cell("place"), time: cell("time") };
    line.mark = make("span", { class: "mark" });
    line.state = make("span", { class: "word" });
    line.name = make("bdi", { dir: "auto" });
    line.last = make("bdi", { dir: "auto" });
    line.bar = make("span", { class: "bar", role: "progressbar", "aria-valuemax": "100" });
    line.fill = make("span");
    line.bar.append(line.fill);
    line.percent = make("span", { class: "percent" });
    line.show = make("button", { type: "button", "aria-pressed": "false" }, "Log");
    line.cancel = make("button", { type: "button" });
    line.forget = make("button", { type: "button" }, "Forget");
    line.show.onclick = () => this.openLog(this.shownLog === row.n ? null : row.n);
    line.cancel.onclick = () => {
      const force = this.store.rows.get(row.n)?.state === "cancelling";
      this.store.send("cancel", { job: row.n, force });
    };
    line.forget.onclick = () => this.store.send("forget", { job: row.n });
    line.el = make("div", { role: "row", class: "row", "data-n": row.n });
    line.el.append(
      cell("number", line.number, line.mark), cell("state", line.state), line.place, cell("name", line.name), line.time,
      cell("last", line.percent, line.bar, line.last), cell("do", line.show, line.cancel, line.forget),
    );
    return line;
  }

  patch(line, row) {
    const { store } = this;
    const ended = ENDED.has(row.state);
    line.row = row;
    const mark = row.n === store.current ? "+" : row.n === store.previous ? "−" : "";
    const number = row.as ?? String(row.n);
    setText(line.number, number);
    setText(line.mark, mark);
    setText(line.state, row.state);
    line.state.className = `word ${STATES.has(row.state) ? row.state : ""}`;
    setText(line.place, row.where);
    line.place.title = row.where;
    setText(line.name, row.name);
    line.name.title = row.name;
    const known = row.fraction !== null && !ended;
    line.bar.hidden = line.percent.hidden = !known;
    if (known) {
      const percent = Math.floor(row.fraction * 100 + 1e-9);
      setText(line.percent, `${percent}%`);
      line.bar.setAttribute("aria-valuenow", String(percent));
      line.bar.setAttribute("aria-label", `Progress of job ${number}`);
      line.fill.style.width = `${percent}%`;
    }
    const last = known ? row.label : row.last;
    setText(line.last, last);
    line.last.title = last;
    const moves = ended && document.activeElement === line.cancel;
    const word = row.state === "cancelling" ? "Force" : "Cancel";
    setText(line.cancel, word);
    line.cancel.hidden = ended;
    line.forget.hidden = !ended;
    if (moves) line.show.focus();
    const who = `job ${number}, ${row.name}`;
    line.show.setAttribute("aria-label", `Log of ${who}`);
    line.cancel.setAttribute("aria-label", `${word === "Force" ? "Force the end of" : "Cancel"} ${who}`);
    line.forget.setAttribute("aria-label", `Forget ${who}`);
    for (const button of [line.show, line.cancel, line.forget]) button.disabled = !store.live;
    const wait = (row.guard ?? 0) - Date.now();
    if (wait > 0) {
      line.forget.disabled = true;
      setTimeout(() => (line.forget.disabled = !store.live), wait);
    }
    this.time(line);
  }

  time(line) {
    const { started, ended } = line.row;
    const running = started !== null && ended === null;
    if (running && !this.store.live) setText(line.time, "");
    else if (running) setText(line.time, elapsed(Math.floor(this.store.now() - started), true));
    else setText(line.time, started === null ? "" : elapsed(ended - started, false));
  }

  tick() {
    if (document.hidden || !this.store.live || !this.root.isConnected) return;
    this.tickCell();
    let running = false;
    for (const row of this.store.rows.values()) running ||= !ENDED.has(row.state);
    if (!running) return;
    for (const n of this.inSight) {
      const line = this.lines.get(n);
      if (line && !ENDED.has(line.row.state)) this.time(line);
    }
    this.draw([...this.store.rows.values()].sort((a, b) => b.n - a.n));
  }

  seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const n = Number(target.dataset.n);
      if (!isIntersecting) this.inSight.delete(n);
      else if (this.lines.has(n)) {
        this.inSight.add(n);
        this.time(this.lines.get(n));
      }
    }
    clearTimeout(this.looking);
    this.looking = setTimeout(() => this.store.look(), 150);
  }

  openLog(n) {
    const before = this.shownLog;
    if (before === n) return;
    this.shownLog = n;
    if (before !== null) {
      this.lines.get(before)?.show.setAttribute("aria-pressed", "false");
      this.store.wantLog(before, false);
    }
    this.pane.hidden = n === null;
    this.logText.textContent = "";
    if (n === null) return this.lines.get(before)?.show.focus();
    setText(this.logNumber, String(n));
    setText(this.logName, this.store.rows.get(n)?.name ?? "");
    this.lines.get(n)?.show.setAttribute("aria-pressed", "true");
    this.store.wantLog(n, true);
  }

  log({ job, replace, segments }) {
    if (job !== this.shownLog) return;
    const pre = this.logText;
    const atEnd = replace || pre.scrollHeight - pre.scrollTop - pre.clientHeight < 30;
    if (replace) pre.textContent = "";
    for (const [stream, text] of segments)
      pre.append(make("span", { class: stream === "stderr" ? "stderr" : "" }, text));
    while (pre.childNodes.length > 1 && pre.textContent.length > LOG_LIMIT) pre.firstChild.remove();
    if (replace && !segments.length) pre.append(make("i", {}, "no output yet"));
    else if (!replace) pre.querySelector("i")?.remove();
    if (atEnd) pre.scrollTop = pre.scrollHeight;
  }

  // The newest jobs as spans of time, each in the first lane that is free after its end.
  draw(sorted) {
    const rows = sorted.slice(0, ON_TIMELINE);
    this.strip.toggleAttribute("hidden", !rows.length);
    this.axis.hidden = !rows.length;
    if (!rows.length) return;
    const now = this.store.live ? this.store.now() : Math.max(...rows.map((r) => r.ended ?? r.launched));
    const runs = rows.some((row) => !ENDED.has(row.state));
    const first = Math.min(...rows.map((row) => row.launched));
    const last = runs ? now : Math.max(...rows.map((row) => row.ended ?? row.launched));
    const span = Math.max(last - first, 1);
    const at = (time) => `${((Math.min(time, last) - first) / span) * 100}%`;
    const wide = (from, to) => `${Math.max((to - from) / span, 0.004) * 100}%`;
    const lanes = [];
    const bars = [];
    for (const row of rows) {
      const end = row.ended ?? last;
      let lane = lanes.findIndex((taken) => taken >= Math.max(end, row.launched + span * 0.006));
      if (lane < 0) lane = lanes.length;
      if (lane >= LANES) continue;
      lanes[lane] = row.launched;
      bars.push({ row, end, lane });
    }
    const height = lanes.length > 6 ? 3 : 6;
    const shown = bars.flatMap(({ row, end, lane }) => {
      const begun = row.started ?? end;
      const y = lane * (height + 1);
      const title = svg("title");
      title.textContent = `${row.as ?? row.n}: ${row.name}\n${row.state}`;
      const place = { y, height, "data-n": row.n, rx: 1 };
      const bar = svg("rect", {
        ...place, x: at(begun), width: wide(begun, end), class: STATES.has(row.state) ? row.state : "",
      });
      bar.append(title);
      if (begun - row.launched < span * 0.004) return [bar];
      const wait = { ...place, x: at(row.launched), width: wide(row.launched, begun), class: "wait" };
      return [svg("rect", wait), bar];
    });
    this.strip.setAttribute("height", String(lanes.length * (height + 1)));
    this.strip.replaceChildren(...shown);
    setText(this.from, clock(first - this.store.skew));
    setText(this.until, runs && this.store.live ? "now" : clock(last - this.store.skew));
  }

  reveal(n) {
    const group = this.store.rows.get(n)?.group ?? null;
    if (!this.lines.has(n) && group !== null) {
      this.unfolded.add(group);
      this.update(new Set());
    }
    if (!this.lines.has(n)) return;
    const { el, show } = this.lines.get(n);
    el.scrollIntoView({ block: "nearest" });
    show.focus();
  }
}

function elapsed(seconds, whole) {
  if (seconds < 9.95) return whole ? `${Math.max(seconds, 0)}s` : `${Math.max(seconds, 0).toFixed(1)}s`;
  const s = whole ? seconds : Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  return `${Math.floor(s / 3600)}h${two(Math.floor((s % 3600) / 60))}m`;
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hourCycle: "h23" });
}

function make(tag, attributes = {}, ...content) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) el.setAttribute(name, value);
  el.append(...content); // strings become text nodes
  return el;
}

function svg(tag, attributes = {}) {
  const el = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) el.setAttribute(name, value);
  return el;
}

function setText(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

export default () => {
  let store;
  return {
    initialize({ model }) {
      store = new Store(model);
      return () => store.close();
    },
    render({ el }) {
      const view = new View(store, el);
      return () => view.close();
    },
  };
};

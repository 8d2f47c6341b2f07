// The panel of `%jobs -w`, an anywidget (https://anywidget.dev/en/afm/): plain JavaScript, no build.
//
// All that is shown came from jobs and goes in as text, never as markup. A Store belongs to one
// widget and takes its messages; each View of it draws. Elapsed times tick here, from start times.

const FILTERS = [
  ["all", "All", () => true],
  ["running", "Running", (row) => !ENDED.has(row.state)],
  ["failed", "Failed", (row) => row.state === "failed"],
];
const STATES = ["queued", "running", "cancelling", ...ENDED];
const PAGE = 500; // rows that are put into the page at a time
const LOG_LIMIT = 200_000; // characters of an open log

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
    this.timeline = new Timeline(this.store, (n) => this.reveal(n));
    return make("div", {}, make("div", { class: "head" }, filters, this.said), this.timeline.el);
  }

  table() {
    const cells = ["#", "State", "Where", "Name", "Time", "Progress or result", "Actions"];
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
    const rows = [...this.store.rows.values()].sort((a, b) => order(b.n) - order(a.n));
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
    this.timeline.draw();
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

  // The parts of a row, without content.
  newRow(n, kind, ...buttons) {
    const cell = (name, ...content) => make("span", { role: "cell", class: name }, ...content);
    const line = { number: make("span"), mark: make("span", { class: "mark" }), place: cell("place"), time: cell("time") };
    line.state = make("span", { class: "word" });
    line.name = make("bdi", { dir: "auto" });
    line.percent = make("span", { class: "percent" });
    line.fill = make("span");
    line.bar = make("span", { class: "bar", role: "progressbar", "aria-valuemax": "100" }, line.fill);
    line.last = make("bdi", { dir: "auto" });
    line.el = make(
      "div", { role: "row", class: `row ${kind}`, "data-n": n },
      cell("number", line.number, line.mark), cell("state", line.state), line.place, cell("name", line.name), line.time,
      cell("last", line.percent, line.bar, line.last), cell("do", ...buttons),
    );
    return line;
  }

  // What every row shows: a state, how far it is if *fraction* is not null, and some words.
  fill(line, state, who, fraction, words) {
    setText(line.state, state);
    line.state.className = `word ${state}`;
    line.bar.hidden = line.percent.hidden = fraction === null;
    if (fraction !== null) {
      const percent = Math.floor(fraction * 100 + 1e-9);
      setText(line.percent, `${percent}%`);
      line.bar.setAttribute("aria-valuenow", String(percent));
      line.bar.setAttribute("aria-label", `Progress of ${who}`);
      line.fill.style.width = `${percent}%`;
    }
    setText(line.last, words);
    line.last.title = words;
  }

  newGroup({ n, group }) {
    const fold = make("button", { type: "button" });
    const all = `Cancel all of group ${group}`;
    const cancel = make("button", { type: "button", "aria-label": all, title: all }, "Cancel");
    fold.onclick = () => {
      if (!this.unfolded.delete(group)) this.unfolded.add(group);
      this.update(new Set([n]));
    };
    cancel.onclick = () => this.store.send("cancel all", { group });
    const line = this.newRow(n, "group", fold, cancel);
    setText(line.name, n);
    return Object.assign(line, { row: null, fold, cancel });
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
    const words = STATES.filter((word) => counts.has(word)).map((word) => `${counts.get(word).toLocaleString("en")} ${word}`);
    const left = (goesOn && this.store.left[group]) || "";
    const all = [`${jobs.length.toLocaleString("en")} jobs`, ...words, left].filter(Boolean).join(", ");
    this.fill(line, state, `group ${group}`, goesOn ? done / jobs.length : null, all);
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

  newLine({ n }) {
    const show = make("button", { type: "button", "aria-pressed": "false" }, "Log");
    const cancel = make("button", { type: "button" });
    const forget = make("button", { type: "button" }, "Forget");
    show.onclick = () => this.openLog(this.shownLog === n ? null : n);
    cancel.onclick = () => {
      const force = this.store.rows.get(n)?.state === "cancelling";
      this.store.send("cancel", { job: n, force });
    };
    forget.onclick = () => this.store.send("forget", { job: n });
    return Object.assign(this.newRow(n, "job", show, cancel, forget), { show, cancel, forget });
  }

  patch(line, row) {
    const { store } = this;
    const ended = ENDED.has(row.state);
    const number = String(row.n);
    line.row = row;
    setText(line.number, number);
    setText(line.mark, row.n === store.current ? "+" : row.n === store.previous ? "−" : "");
    setText(line.place, row.where.split(" ")[0]); // without the number of a process
    line.place.title = row.where;
    setText(line.name, row.name);
    line.name.title = row.name;
    const fraction = ended ? null : row.fraction;
    this.fill(line, row.state, `job ${number}`, fraction, fraction === null ? row.last : row.label);
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
    this.timeline.draw();
  }

  seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const n = jobId(target.dataset.n);
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

  log(news) {
    if (news.job === this.shownLog) addToLog(this.logText, news, LOG_LIMIT);
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

// The panel of `%jobs -w`: a table of all jobs, or of some, with the cell of the foreground.

const FILTERS = [
  ["all", "All", () => true],
  ["active", "Active", (row) => !ENDED.has(row.state)],
  ["failed", "Failed", (row) => row.state === "failed"],
  ["finished", "Finished", (row) => row.state === "finished"],
];
const PAGE = 500; // rows that are put into the page at a time
const GUARD = 800; // ms in which a button that just took another's place does nothing

class Panel extends View {
  constructor(link, id) {
    super(link, id, "panel");
    this.filter = "all";
    this.limit = PAGE;
    this.lines = new Map(); // number, or @ and the name of a group -> what is in the page for it
    this.unfolded = new Set(); // groups that are open
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", "Background jobs");
    this.root.append(this.head(), this.table(), this.pane.el);
  }

  get shows() {
    return this.link.heard;
  }

  head() {
    const filters = make("div", { class: "filters", role: "group", "aria-label": "Filter" });
    this.filters = FILTERS.map(([key]) => button("", () => this.choose(key), { class: key }));
    filters.append(...this.filters);
    this.gone = make("div", { class: "quiet", hidden: "" });
    this.timeline = new Timeline(this.link, (n) => this.reveal(n));
    return make("div", {}, this.gone, make("div", { class: "head" }, filters, this.said), this.timeline.el);
  }

  table() {
    const heads = ["#", "Job", "Where", "Progress", "Time", "Actions"].map((text) => make("span", { role: "columnheader" }, text));
    const head = make("div", { role: "row", class: "row heads" }, ...heads);
    this.front = make("div", { role: "rowgroup" });
    this.body = make("div", { role: "rowgroup" });
    this.empty = make("div", { class: "empty" });
    this.more = button("", () => {
      this.limit += PAGE;
      this.draw();
    }, { class: "more" });
    this.grid = make("div", { role: "table", "aria-label": "Jobs" }, head, this.front, this.body);
    return make("div", { class: "scroll" }, this.grid, this.empty, this.more);
  }

  choose(filter) {
    this.filter = filter;
    this.limit = PAGE;
    this.draw();
  }

  rows() {
    const only = this.el?.dataset.bgtOnly;
    const chosen = only ? new Set(only.split(" ")) : null;
    return [...this.link.rows.values()].filter((row) => row.kept && (!chosen || chosen.has(row.n)));
  }

  // Bring the page up to date: which rows there are, and those that have changed.
  draw(changed = new Set()) {
    const { link } = this;
    const rows = this.rows();
    FILTERS.forEach(([key, word, fits], i) => {
      const count = rows.filter(fits).length;
      setText(this.filters[i], `${word} ${count.toLocaleString("en")}`);
      this.filters[i].setAttribute("aria-pressed", String(key === this.filter));
      this.filters[i].disabled = key === "failed" && !count && this.filter !== key;
      this.filters[i].classList.toggle("some", key === "failed" && count > 0);
    });
    const [, , fits] = FILTERS.find(([key]) => key === this.filter);
    const rank = (row) => (!ENDED.has(row.state) ? (row.started === null ? 1 : 0) : row.state === "failed" ? 2 : 3);
    const newest = (row) => row.ended ?? row.launched;
    const chosen = rows.filter(fits).sort((a, b) => rank(a) - rank(b) || newest(b) - newest(a) || b.launched - a.launched);
    this.gone.hidden = link.alive;
    setText(this.gone, link.over || `This ${link.why}. The table shows its last state.`);
    this.root.classList.toggle("lost", !link.alive);
    this.showCell(link.alive && (this.filter === "all" || this.filter === "active") ? link.cell : null);
    const entries = this.folded(chosen);
    this.root.style.setProperty("--digits", String(rows.reduce((most, { n }) => Math.max(most, n.length), 2)));
    this.arrange(entries.slice(0, this.limit), changed);
    this.grid.setAttribute("aria-rowcount", String(entries.length + 1));
    this.grid.hidden = !entries.length && !this.front.dataset.cell;
    const rest = entries.length - this.limit;
    this.more.hidden = rest <= 0;
    if (rest > 0) setText(this.more, `Show ${Math.min(rest, PAGE)} more of ${rest.toLocaleString("en")}`);
    this.empty.hidden = !this.grid.hidden;
    setText(this.empty, rows.length ? `No job is ${this.filter}.` : "No jobs yet. Put %bg before a call: %bg f()");
    this.timeline.draw(rows);
  }

  // The rows with each group in one of its own, at the place of its first; open, they follow.
  folded(rows) {
    const groups = new Map();
    for (const row of rows) if (row.group !== null) groups.set(row.group, [...(groups.get(row.group) ?? []), row]);
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
    const line = { number: make("span"), mark: make("span", { class: "mark" }), time: cell("time"), state: new State() };
    line.place = make("span", { class: "quiet" });
    line.name = make("bdi", { dir: "auto" });
    line.bar = new Bar(n);
    line.last = make("bdi", { dir: "auto" });
    line.uses = make("span", { class: "uses quiet" });
    line.el = make(
      "div", { role: "row", class: `row ${kind}`, "data-n": n },
      cell("number", line.number, line.mark), cell("name", line.name), cell("where", line.state.el, line.place),
      cell("last", line.bar.el, line.last, line.uses), line.time, cell("do", ...buttons),
    );
    return line;
  }

  newGroup({ n, group }) {
    const fold = button("▸", () => {
      if (!this.unfolded.delete(group)) this.unfolded.add(group);
      this.draw();
    }, { class: "icon fold" });
    const stop = button(icon("stop"), () => this.link.send("cancel all", { group, to: this.id }), { class: "icon" });
    relabel(stop, `Cancel all of group ${group}`);
    const line = this.newRow(n, "group", stop);
    line.name.before(fold, " ");
    setText(line.name, n);
    return Object.assign(line, { fold, stop });
  }

  patchGroup(line, { group, jobs }) {
    const counts = new Map();
    let done = 0;
    for (const row of jobs) {
      counts.set(row.state, (counts.get(row.state) ?? 0) + 1);
      done += ENDED.has(row.state) ? 1 : (row.fraction ?? 0);
    }
    const goesOn = jobs.some((row) => !ENDED.has(row.state));
    const state = ["running", "cancelling", "queued"].find((word) => counts.has(word)) ?? (counts.has("failed") ? "failed" : "finished");
    line.state.show(goesOn && !this.link.alive ? "lost" : state);
    const words = ORDER.filter((word) => counts.has(word)).map((word) => `${counts.get(word).toLocaleString("en")} ${word}`);
    line.bar.show(goesOn && this.link.alive ? done / jobs.length : null, this.link.left[group]);
    setText(line.last, [`${jobs.length.toLocaleString("en")} jobs`, ...words].join(", "));
    line.last.title = line.last.textContent;
    const open = this.unfolded.has(group);
    setText(line.fold, open ? "▾" : "▸");
    line.fold.setAttribute("aria-expanded", String(open));
    relabel(line.fold, `${open ? "Fold" : "Open"} group ${group}`);
    line.stop.hidden = !goesOn || !this.link.alive;
    line.jobs = jobs;
    this.groupTime(line);
  }

  // From the first launch to the last end.
  groupTime({ time, jobs }) {
    const until = jobs.some((row) => row.ended === null) ? (this.link.alive ? this.link.now() : this.link.goneAt) : Math.max(...jobs.map((row) => row.ended));
    setText(time, elapsed(until - Math.min(...jobs.map((row) => row.launched)), false));
  }

  // The cell in the foreground is a row above the jobs; its button makes it one of them. Those that
  // wait for it follow, each with a button that takes it out.
  showCell(cell) {
    const key = cell ? [cell.id, ...cell.queue.map((each) => each.n)].join(" ") : "";
    if (key === (this.front.dataset.key ?? "")) return;
    this.front.dataset.key = key;
    this.front.replaceChildren();
    if (!cell) return delete this.front.dataset.cell;
    this.front.dataset.cell = cell.id;
    const away = button("Background", () => {
      away.disabled = true;
      this.link.send("background", { cell: cell.id, to: this.id });
    }, { "aria-label": `Send cell ${cell.number}, ${cell.name}, to the background` });
    const line = this.newRow(`cell ${cell.number}`, "front", away);
    setText(line.number, `[${cell.number}]`);
    setText(line.name, cell.name);
    line.state.show("running");
    setText(line.place, "cell");
    setText(line.last, "in the foreground");
    line.bar.show(null);
    this.front.append(line.el, ...cell.queue.map((each) => this.waiting(each)));
    this.frontTime = line.time;
    this.tickCell();
  }

  waiting({ n, name }) {
    const out = button(icon("stop"), () => {
      out.disabled = true;
      this.link.send("take out", { cell: n, to: this.id });
    }, { class: "icon" });
    relabel(out, `Take q${n}, ${name}, out of the queue`);
    const line = this.newRow(`q${n}`, "front", out);
    setText(line.number, `q${n}`);
    setText(line.name, name);
    line.state.show("queued");
    setText(line.place, "cell");
    setText(line.last, "waits for its turn");
    line.bar.show(null);
    return line.el;
  }

  tickCell() {
    const { cell } = this.link;
    if (cell && this.front.dataset.cell) setText(this.frontTime, elapsed(this.link.now() - cell.started, true));
  }

  arrange(rows, changed) {
    const keep = new Set(rows.map((row) => row.n));
    for (const [n, line] of this.lines) {
      if (keep.has(n)) continue;
      this.link.unwatch(line.el);
      line.el.remove();
      this.lines.delete(n);
    }
    let next = this.body.firstChild;
    for (const row of rows) {
      let line = this.lines.get(row.n);
      if (!line) {
        this.lines.set(row.n, (line = row.jobs ? this.newGroup(row) : this.newLine(row)));
        if (!row.jobs) this.link.watch(line.el);
      }
      if (row.jobs) this.patchGroup(line, row);
      else if (line.row !== row || changed.has(row.n) || line.alive !== this.link.alive) this.patch(line, row);
      if (line.el === next) next = next.nextSibling;
      else this.body.insertBefore(line.el, next);
    }
    if (this.pane.n !== null && !this.link.rows.get(this.pane.n)?.kept) this.closeLog();
  }

  newLine({ n }) {
    const show = button(icon("log"), () => (this.pane.n === n ? this.closeLog() : this.openLog(n)), { class: "icon", "aria-pressed": "false" });
    const stop = button(icon("stop"), () => {
      this.link.send("cancel", { job: n, force: this.link.rows.get(n)?.state === "cancelling", to: this.id });
    }, { class: "icon" });
    const forget = button(icon("forget"), () => this.link.send("forget", { job: n, to: this.id }), { class: "icon" });
    return Object.assign(this.newRow(n, "job", show, stop, forget), { show, stop, forget });
  }

  patch(line, row) {
    const { link } = this;
    const ended = ENDED.has(row.state);
    const lost = !ended && !link.alive;
    Object.assign(line, { row, alive: link.alive });
    setText(line.number, row.n);
    setText(line.mark, row.n === link.current ? "+" : row.n === link.previous ? "−" : "");
    line.state.show(lost ? "lost" : row.state);
    setText(line.place, row.where.split(" ")[0]); // without the number of a process
    line.place.title = `${row.state} (${row.where})`;
    setText(line.name, row.name);
    line.name.title = row.code ?? row.name;
    line.el.classList.toggle("failed", row.state === "failed");
    line.bar.show(ended || lost ? null : row.fraction, row.label);
    setText(line.last, !ended && !lost && row.fraction !== null ? "" : (row.kind === "result" ? "→ " : "") + row.last);
    line.last.title = row.last;
    const uses = ended || lost ? "" : row.uses;
    setText(line.uses, uses.split(" in ")[0]);
    line.uses.title = uses;
    const who = `job ${row.n}, ${row.name}`;
    const word = row.state !== "cancelling" ? "Cancel" : KILLED.has(row.where.split(" ")[0]) ? "Kill" : "Insist on the end of";
    const moves = ended && document.activeElement === line.stop;
    if (line.word !== word) line.stop.replaceChildren(icon((line.word = word) === "Cancel" ? "stop" : "kill"));
    line.stop.hidden = ended || lost;
    line.forget.hidden = !ended || !link.alive;
    line.show.hidden = !link.alive;
    if (moves) line.show.focus();
    relabel(line.show, `Log of ${who}`);
    relabel(line.stop, `${word} ${who}`);
    relabel(line.forget, `Forget ${who}`);
    const wait = (row.guard ?? 0) - Date.now();
    line.forget.disabled = wait > 0;
    if (wait > 0) setTimeout(() => (line.forget.disabled = false), wait);
    this.time(line);
  }

  time(line) {
    setText(line.time, timeOf(line.row, this.link));
    line.time.title = line.row.started === null ? "" : `started ${clock(line.row.started - this.link.skew)}`;
  }

  tick() {
    this.tickCell();
    const rows = this.rows();
    if (rows.every((row) => ENDED.has(row.state))) return;
    for (const n of this.link.inSight) {
      const line = this.lines.get(n);
      if (line?.row && !ENDED.has(line.row.state)) this.time(line);
    }
    for (const line of this.lines.values()) if (line.jobs?.some((row) => row.ended === null)) this.groupTime(line);
    this.timeline.draw(rows);
  }

  openLog(n) {
    if (this.pane.n !== null) this.lines.get(this.pane.n)?.show.setAttribute("aria-pressed", "false");
    this.pane.open(n, { title: `Log of [${n}] ${this.link.rows.get(n)?.name ?? ""}` });
    this.lines.get(n)?.show.setAttribute("aria-pressed", "true");
  }

  closeLog() {
    const before = this.lines.get(this.pane.n);
    this.link.dropLog(this.pane.n, this.pane);
    this.pane.open(null);
    before?.show.setAttribute("aria-pressed", "false");
    before?.show.focus();
  }

  reveal(n) {
    const group = n.startsWith("@") ? n.slice(1) : (this.link.rows.get(n)?.group ?? null);
    if (!this.lines.has(n) && group !== null) {
      this.unfolded.add(group);
      this.draw();
    }
    const line = this.lines.get(n);
    line?.el.scrollIntoView({ block: "nearest" });
    (line?.show ?? line?.fold)?.focus();
  }
}

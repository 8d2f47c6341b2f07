// One script for all cards and panels of a kernel: an anywidget (https://anywidget.dev/en/afm/)
// that needs no view. It finds their HTML in the page by the kernel's key, now and whenever more
// comes (scrolled into sight, moved, reloaded, within the outputs of widgets), puts what is alive in
// its place, and says so when the kernel is gone.

const ACK_EVERY = 100; // messages; the kernel stops sending when it hears nothing for long
const KEPT = 300; // views of what does not stand in the page at the moment
const OPENED = 5; // logs that open by themselves
const MARK = "● "; // in the title of a page that has something to tell

class Link {
  constructor(model) {
    this.model = model;
    this.key = model.get("key");
    this.client = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
    this.rows = new Map(); // of jobs, by number
    this.many = new Map(); // facts of cards of several jobs, by name
    this.views = new Map(); // what stands for an HTML element, by its name
    this.logs = new Map(); // number -> the panes that show its log
    this.inSight = new Set();
    this.left = {}; // how long groups will still take, by name
    this.current = this.previous = this.cell = null;
    this.alive = true;
    this.heard = false;
    this.over = "";
    this.skew = 0; // seconds the kernel's clock is ahead of ours
    this.received = 0;
    this.turn = 0; // how often the kernel was told what stands here: it may hear that out of order
    this.sight = new IntersectionObserver((entries) => this.looked(entries));
    this.watching = new MutationObserver((changes) => this.found(changes));
    this.clock = setInterval(() => this.tick(), 1000);
    this.onMessage = (message) => this.receive(message);
    // It came alive before this script: the next change is its end. Newer anywidgets hide which.
    this.onLive = () => model.comm_live || this.lose();
    this.onHide = () => {
      this.remember();
      this.send("bye");
    };
    model.on("msg:custom", this.onMessage);
    model.on("comm_live_update", this.onLive);
    this.onVisible = () => this.seen();
    window.addEventListener("pagehide", this.onHide);
    document.addEventListener("visibilitychange", this.onVisible);
    this.notices = new Notices(this);
    this.since = this.remembered(); // when a page was last in contact with this kernel
    this.send("hello");
    this.watching.observe(document.body, { childList: true, subtree: true });
    this.scan(document);
  }

  now() {
    return Date.now() / 1000 + this.skew;
  }

  // Messages

  send(kind, fields = {}) {
    if (!this.alive) return;
    try {
      this.model.send({ kind, client: this.client, ...fields });
    } catch {
      this.lose();
    }
  }

  receive(message) {
    if (!this.alive) return;
    if (++this.received % ACK_EVERY === 0) this.send("ack");
    const { kind } = message;
    if (kind === "news") this.news(message);
    else if (kind === "missed") this.missed(message.jobs);
    else if (kind === "said") for (const view of this.viewsOf(message.to)) view.say(message.text);
    else if (kind === "notice") this.notices.hear(message);
    else if (kind === "again") this.repeat();
    else if (kind === "over") this.lose((this.over = message.text));
  }

  news(message) {
    const ahead = message.now - Date.now() / 1000;
    // What comes late makes the kernel's clock look late: the largest is nearest to the truth.
    this.skew = this.heard && !message.reset ? Math.max(this.skew, ahead) : ahead;
    if (message.reset) for (const row of this.rows.values()) row.kept = false;
    const changed = new Set();
    for (const row of message.rows) {
      const before = this.rows.get(row.n);
      if (before && !ENDED.has(before.state) && ENDED.has(row.state)) row.guard = Date.now() + GUARD;
      row.kept = true;
      this.rows.set(row.n, row);
      changed.add(row.n);
    }
    for (const n of message.gone) if (this.rows.has(n)) this.rows.get(n).kept = false;
    for (const [name, facts] of Object.entries(message.many)) this.many.set(name, facts);
    Object.assign(this.left, message.left);
    for (const mark of [this.current, this.previous, message.current, message.previous]) changed.add(mark);
    Object.assign(this, { current: message.current, previous: message.previous, cell: message.cell });
    this.heard = true;
    for (const view of this.standing()) {
      if (view instanceof Panel) this.show(view, changed);
      else if (view instanceof SweepCard ? message.many[view.id] || (view.isOpen && changed.size) : changed.has(view.id)) this.show(view);
    }
    for (const log of message.logs) for (const pane of this.logs.get(log.job) ?? []) pane.hear(log);
    this.askForMissed();
  }

  // The kernel is gone, or has nothing to do with this page any more.
  lose() {
    if (!this.alive) return;
    this.alive = false;
    this.goneAt = this.now();
    this.why = this.over || `kernel is gone since ${clock(Date.now() / 1000)}`;
    clearInterval(this.clock);
    for (const view of this.standing()) this.show(view);
  }

  close() {
    this.lose();
    this.sight.disconnect();
    this.notices.close();
    window.removeEventListener("pagehide", this.onHide);
    document.removeEventListener("visibilitychange", this.onVisible);
    this.model.off("msg:custom", this.onMessage);
    this.model.off("comm_live_update", this.onLive);
  }

  // What stands in the page

  viewsOf(name) {
    return (this.views.get(name) ?? []).filter((view) => view.el?.isConnected);
  }

  standing() {
    return [...this.views.keys()].flatMap((name) => this.viewsOf(name));
  }

  scan(root) {
    const mine = `[data-bgt-key="${this.key}"]`;
    if (root.matches?.(mine)) this.adopt(root);
    for (const el of root.querySelectorAll(mine)) this.adopt(el);
  }

  found(changes) {
    for (const { addedNodes } of changes)
      for (const node of addedNodes) if (node.nodeType === 1 && !node.closest?.(".bgt")) this.scan(node);
  }

  adopt(el) {
    if (!this.alive) return; // what the kernel has sent last stands there
    const name = el.dataset.bgt;
    const all = this.views.get(name) ?? [];
    let view = all.find((each) => each.el === el) ?? all.find((each) => !each.el?.isConnected);
    if (!view) {
      view = name === "panel" ? new Panel(this, name) : name.startsWith("m") ? new SweepCard(this, name) : new JobCard(this, name);
      this.views.set(name, [...all, view]);
    } else if (view.el !== el && view.el && !ENDED.has(view.row?.state)) this.moved(view, el);
    if (view.el) this.unwatch(view.el);
    view.el = el;
    this.watch(el);
    this.show(view);
    this.seen();
  }

  // Whether another cell shows it now: it was cut and pasted, and the page shows no output there.
  moved(view, el) {
    const cell = el.closest(".jp-Cell");
    if (cell && view.cell && cell !== view.cell) view.await?.();
  }

  // Draw what is known; as long as nothing is, the HTML stands as it was saved.
  show(view, changed) {
    if (!view.shows) return;
    view.draw(changed);
    if (!view.el.contains(view.root)) view.place(view.el);
    view.cell = view.el.closest(".jp-Cell");
  }

  watch(el) {
    this.sight.observe(el);
  }

  unwatch(el) {
    this.sight.unobserve(el);
    this.inSight.delete(el.dataset.n ?? el.dataset.bgt);
  }

  looked(entries) {
    for (const { target, isIntersecting } of entries) {
      const name = target.dataset.n ?? target.dataset.bgt;
      if (isIntersecting) this.inSight.add(name);
      else this.inSight.delete(name);
    }
    this.seen();
  }

  // It may have announced the model before anything there listened, and asks again when it does.
  repeat() {
    this.told = null;
    this.send("hello");
    if (this.views.size) this.seen();
  }

  // Tell the kernel what stands here, and of which jobs it is worth to know the last line.
  seen() {
    clearTimeout(this.looking);
    this.looking = setTimeout(() => {
      const names = [...this.views].filter(([, all]) => all.some((view) => view.el?.isConnected)).map(([name]) => name);
      const lists = this.standing().filter((view) => view.isOpen).map((view) => view.id);
      const of = (all, fits) => all.filter(fits).slice(-4000).sort();
      const isJob = (name) => !/^[m@]|^panel$/.test(name);
      const sight = {
        panel: names.includes("panel"),
        watched: this.inSight.has("panel") && !document.hidden, // else nothing is measured for it
        jobs: of(names, isJob),
        look: of([...this.inSight], isJob),
        many: of(names, (name) => /^m/.test(name)),
        lists: lists.sort(),
      };
      const text = JSON.stringify(sight);
      if (text !== this.told) this.send("see", { ...sight, turn: ++this.turn });
      this.told = text;
      this.forget();
    }, 60);
  }

  forget() {
    const away = [...this.views].flatMap(([name, all]) => all.filter((view) => !view.el?.isConnected).map((view) => [name, view]));
    for (const [name, view] of away.slice(0, Math.max(away.length - KEPT, 0))) {
      if (view.pane.n !== null) this.dropLog(view.pane.n, view.pane);
      this.views.set(name, this.views.get(name).filter((each) => each !== view));
    }
  }

  wantLog(n, pane) {
    this.logs.set(n, (this.logs.get(n) ?? new Set()).add(pane));
    this.send("log", { job: n, open: true });
  }

  dropLog(n, pane) {
    const panes = this.logs.get(n);
    if (!panes?.delete(pane) || panes.size) return;
    this.logs.delete(n);
    this.send("log", { job: n, open: false });
  }

  tick() {
    this.remember();
    if (!document.hidden) for (const view of this.standing()) if (view.shows) view.tick();
  }

  // What came while no page listened: JupyterLab shows no output of requests of an earlier page.

  get memory() {
    return `ipy_bgtasks ${this.key}`;
  }

  remember() {
    try {
      if (this.heard) localStorage.setItem(this.memory, String(this.now()));
    } catch {} // not allowed
  }

  remembered() {
    try {
      return Number(localStorage.getItem(this.memory)) || null;
    } catch {
      return null;
    }
  }

  askForMissed() {
    if (this.since === null) return;
    const cards = this.standing().filter((view) => view instanceof JobCard && this.rows.has(view.id));
    const jobs = cards.filter((view) => !view.asked && view.row.launched < this.since).map((view) => view.id);
    for (const view of cards) {
      if (view.asked) continue;
      view.asked = true;
      if (view.row.launched < this.since && !ENDED.has(view.row.state)) view.await();
    }
    if (jobs.length) this.send("missed", { jobs, since: this.since });
  }

  missed(jobs) {
    for (const [n, lines] of Object.entries(jobs).slice(0, OPENED))
      for (const view of this.viewsOf(n)) view.openLog(`${lines} ${lines === 1 ? "line" : "lines"} came while this page was away`);
  }
}

// What a page does with a notice while nobody looks at it: it shows a notification of the browser's,
// where that was allowed by a click on the bell of a card, and marks its title until somebody looks.
class Notices {
  constructor(link) {
    this.link = link;
    this.keeper = new MutationObserver(() => this.mark()); // the application gives a title anew
    this.look = () => {
      if (document.hidden) return;
      this.keeper.disconnect();
      if (document.title.startsWith(MARK)) document.title = document.title.slice(MARK.length);
    };
    document.addEventListener("visibilitychange", this.look);
  }

  close() {
    this.keeper.disconnect();
    document.removeEventListener("visibilitychange", this.look);
  }

  mark() {
    if (!document.title.startsWith(MARK)) document.title = MARK + document.title;
  }

  hear({ title, body, job }) {
    if (!document.hidden) return;
    this.mark();
    const el = document.querySelector("title");
    if (el) this.keeper.observe(el, { childList: true });
    if (allowed() !== "granted") return;
    const tag = `ipy-bgtasks ${this.link.key} ${title}`; // one, though several pages show the notebook
    let shown;
    try {
      shown = new Notification(title, { body, tag });
    } catch {
      return; // some browsers on phones have it for service workers only
    }
    shown.onclick = () => {
      window.focus();
      const card = document.querySelector(`[data-bgt-key="${this.link.key}"][data-bgt="${CSS.escape(job)}"]`);
      card?.scrollIntoView({ block: "center" });
      shown.close();
    };
  }
}

export default {
  initialize({ model }) {
    // Two notebooks of one page may share a kernel: the last one draws for both.
    const links = (globalThis.ipyBgtasks ??= new Map());
    const key = model.get("key");
    links.get(key)?.watching.disconnect();
    const link = new Link(model);
    links.set(key, link);
    return () => link.close();
  },
};

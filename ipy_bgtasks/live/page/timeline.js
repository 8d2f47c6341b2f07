// When the jobs ran, in as few lanes as they need: the newest, and always those that run. A group
// is one band, as dense as jobs of it run; who waits takes no lane but its own later one.

const LANES = 12;
const LATEST = 200; // jobs and groups
const NAMED = 8; // lanes up to which names stand at the left

class Timeline {
  constructor(link, reveal) {
    this.link = link;
    this.names = make("div", { class: "names" });
    this.strip = svg("svg", { class: "strip", preserveAspectRatio: "none" });
    this.from = make("span");
    this.until = make("span");
    const axis = make("div", { class: "axis" }, this.from, this.until);
    this.el = make("div", { class: "timeline", "aria-hidden": "true" }, this.names, make("div", {}, this.strip, axis));
    this.strip.onclick = ({ target }) => target.dataset.n && reveal(target.dataset.n);
    this.strip.onpointerover = ({ target }) => {
      const row = link.rows.get(target.dataset.n);
      this.strip.firstElementChild.textContent = row ? `[${row.n}] ${row.name}\n${row.state}` : (target.dataset.n ?? "");
    };
  }

  // What is drawn: a job alone, or a group as one.
  spans(rows) {
    const spans = new Map();
    for (const row of rows) {
      const id = row.group === null ? row.n : `@${row.group}`;
      const span = spans.get(id) ?? { id, name: row.group === null ? `[${row.n}] ${row.name}` : id, first: row.launched, last: 0, goesOn: false, rows: [] };
      span.first = Math.min(span.first, row.launched);
      span.last = Math.max(span.last, row.ended ?? 0);
      span.goesOn ||= row.ended === null;
      span.rows.push(row);
      spans.set(id, span);
    }
    return [...spans.values()].sort((a, b) => b.goesOn - a.goesOn || b.first - a.first).slice(0, LATEST);
  }

  draw(rows) {
    const { link } = this;
    this.el.hidden = rows.length < 3;
    if (rows.length < 3) return;
    const now = link.alive ? link.now() : link.goneAt;
    const spans = this.spans(rows);
    const lanes = []; // of each what was put there last
    const roomy = spans.length <= NAMED; // each has one of its own
    for (const span of spans) {
      const end = span.goesOn ? now : span.last;
      let lane = roomy ? -1 : lanes.findIndex((taken) => taken >= end);
      if (lane < 0) lane = lanes.length;
      span.lane = lane;
      if (lane < LANES) lanes[lane] = span.first - (now - span.first) * 0.006;
    }
    const shown = spans.filter(({ lane }) => lane < LANES);
    const first = Math.min(...shown.map((span) => span.first));
    const last = Math.max(...shown.map((span) => (span.goesOn ? now : span.last)), first + 0.05);
    const high = lanes.length > NAMED ? 5 : 15;
    this.names.replaceChildren(...(roomy ? shown.map(({ name }) => make("span", { dir: "auto", title: name }, name)) : []));
    this.strip.style.height = `${lanes.length * (high + 2)}px`; // JupyterLab gives each SVG one of its own
    this.strip.setAttribute("viewBox", `0 0 ${last - first} ${lanes.length * (high + 2)}`);
    const bars = shown.flatMap((span) => this.bars(span, first, now, high, (last - first) / 400));
    const title = this.strip.firstElementChild ?? svg("title");
    const line = svg("line", { x1: now - first, x2: now - first, y1: 0, y2: lanes.length * (high + 2), class: "now" });
    this.strip.replaceChildren(title, ...bars, ...(link.alive && shown.some((span) => span.goesOn) ? [line] : []));
    const fine = Math.floor(first) === Math.floor(last);
    setText(this.from, clock(first - link.skew, fine));
    setText(this.until, shown.some((span) => span.goesOn) && link.alive ? "now" : clock(last - link.skew, fine));
  }

  bars(span, first, now, high, least) {
    const y = span.lane * (high + 2) + 1;
    const alone = span.rows.length === 1;
    const dense = Math.max(0.25, 1 / Math.sqrt(span.rows.length));
    const rows = [...span.rows].sort((a, b) => (a.state === "failed") - (b.state === "failed"));
    return rows.flatMap((row) => {
      const begun = row.started ?? row.ended ?? now;
      const end = row.ended ?? now;
      const found = [];
      if (alone && begun - row.launched > least)
        found.push(svg("rect", { x: row.launched - first, y: y + high / 2 - 1, width: begun - row.launched, height: 2, class: "wait", "data-n": row.n }));
      if (row.started !== null) {
        const word = this.link.alive || ENDED.has(row.state) ? row.state : "lost";
        const place = { x: begun - first, y, width: Math.max(end - begun, least), height: high };
        const mark = !alone && row.state === "failed"; // in a band, where it failed
        if (mark) {
          found.push(svg("rect", { ...place, "data-n": span.id, opacity: dense }));
          Object.assign(place, { x: Math.max(end - first - 2 * least, 0), width: 2 * least });
        }
        found.push(svg("rect", { ...place, class: word, "data-n": alone ? row.n : span.id, opacity: alone || mark ? 1 : dense }));
      }
      return found;
    });
  }
}

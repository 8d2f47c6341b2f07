// The newest jobs as spans of time. The kernel says where the bars are (`views.timeline.strip`);
// those of jobs that go on grow here.

class Timeline {
  constructor(store, reveal) {
    this.store = store;
    this.strip = svg("svg", { class: "strip", preserveAspectRatio: "none" });
    this.from = make("span");
    this.until = make("span");
    this.el = make("div", { "aria-hidden": "true" });
    this.el.append(this.strip, make("div", { class: "axis" }, this.from, this.until));
    this.strip.onclick = ({ target }) => reveal(jobId(target.dataset.n));
    this.strip.onpointerover = ({ target }) => {
      const row = store.rows.get(jobId(target.dataset.n));
      this.el.title = row ? `${row.n}: ${row.name}\n${row.state}` : "";
    };
  }

  draw() {
    const { timeline, live, skew } = this.store;
    this.el.hidden = !timeline.lanes;
    if (!timeline.lanes) return;
    if (this.shown !== timeline) this.show(timeline);
    const goesOn = live && this.growing.length > 0;
    const last = goesOn ? Math.max(this.store.now(), timeline.last) : timeline.last;
    const height = this.strip.getAttribute("height");
    this.strip.setAttribute("viewBox", `0 0 ${Math.max(last - timeline.first, 1)} ${height}`);
    for (const bar of this.growing) bar.setAttribute("width", last - timeline.first - bar.getAttribute("x"));
    setText(this.from, clock(timeline.first - skew));
    setText(this.until, goesOn ? "now" : clock(last - skew));
  }

  show(timeline) {
    this.shown = timeline;
    this.growing = [];
    // With the outlines of 2 pixels, which make short jobs visible.
    const height = Math.min(Math.max(Math.floor(48 / timeline.lanes), 3), 6);
    const bars = timeline.bars.map(([n, state, x, width, lane]) => {
      const place = { x, y: lane * (height + 1) + 1, width, height: height - 2 };
      const bar = svg("rect", { ...place, class: state, "data-n": n });
      if (state !== "wait" && !ENDED.has(state)) this.growing.push(bar);
      return bar;
    });
    this.strip.setAttribute("height", String(timeline.lanes * (height + 1)));
    this.strip.replaceChildren(...bars);
  }
}

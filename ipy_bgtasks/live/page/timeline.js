// The newest jobs as spans of time, each in the first lane that is free after its end.

const LANES = 14; // of the timeline; what does not fit is older
const ON_TIMELINE = 150; // jobs, the newest

class Timeline {
  constructor(store, reveal) {
    this.store = store;
    this.strip = svg("svg", { class: "strip", "aria-hidden": "true" });
    this.strip.onclick = (event) => reveal(Number(event.target.dataset?.n));
    this.from = make("span");
    this.until = make("span");
    this.axis = make("div", { class: "axis", "aria-hidden": "true" }, this.from, this.until);
  }

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
}

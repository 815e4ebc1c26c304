// Line charts and the reliability diagram, as SVG.
'use strict';

const CHART = { width: 360, height: 220, left: 46, right: 12, top: 24, bottom: 34 };

/** Round steps for an axis, none smaller than the least. */
function ticks(low, high, about, least = 0) {
  const raw = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(least, [1, 2, 5, 10].map(factor => factor * power).find(candidate => candidate >= raw * 0.999));
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) found.push(index * step);
  return found;
}

function shortNumber(value) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(0) : String(+value.toPrecision(3));
}

class LineChart {
  /**
   * @param settings title, xLabel, percent (of y), wholeX: whether x are whole numbers, x and y: [low, high] or nothing for those of the data,
   *   series: [{name, points: [[x, y], ...], dashed}], diagonal: whether to draw one, pick(x): called on a click.
   */
  constructor(settings) {
    this.settings = settings;
    this.svg = svg('svg', { viewBox: `0 0 ${CHART.width} ${CHART.height}`, class: 'chart', role: 'img' });
    const points = settings.series.flatMap(series => series.points);
    const bounds = part => {
      const values = points.map(point => point[part]).filter(Number.isFinite);
      const low = Math.min(...values), high = Math.max(...values);
      return values.length ? (low === high ? [low - 0.5, high + 0.5] : [low, high]) : [0, 1];
    };
    this.x = settings.x ?? bounds(0);
    this.y = settings.y ?? bounds(1);
    const summary = settings.series.filter(series => series.points.length).map(series => {
      const last = series.points[series.points.length - 1];
      return `${series.name} ends at ${shortNumber(last[1])}`;
    });
    this.svg.setAttribute('aria-label', `${settings.title}: ${summary.join(', ')}`);
    this.drawAxes();
    settings.series.forEach((series, index) => this.drawSeries(series, index));
    this.marker = svg('g', { class: 'marker' });
    this.svg.append(this.marker);
    if (settings.pick) {
      this.svg.addEventListener('click', event => {
        const box = this.svg.getBoundingClientRect();
        const place = (event.clientX - box.left) / box.width * CHART.width;
        const share = (place - CHART.left) / (CHART.width - CHART.left - CHART.right);
        settings.pick(this.x[0] + share * (this.x[1] - this.x[0]));
      });
    }
  }

  atX(value) {
    return CHART.left + (value - this.x[0]) / (this.x[1] - this.x[0]) * (CHART.width - CHART.left - CHART.right);
  }

  atY(value) {
    return CHART.height - CHART.bottom - (value - this.y[0]) / (this.y[1] - this.y[0]) * (CHART.height - CHART.top - CHART.bottom);
  }

  drawAxes() {
    const { title, xLabel, diagonal } = this.settings;
    const text = (x, y, content, anchor, name = '') => {
      const element = svg('text', { x, y, 'text-anchor': anchor, class: name });
      element.textContent = content;
      this.svg.append(element);
    };
    text(CHART.left, 14, title, 'start', 'chart-title');
    text((CHART.left + CHART.width - CHART.right) / 2, CHART.height - 4, xLabel ?? '', 'middle');
    for (const value of ticks(...this.y, 4)) {
      const y = this.atY(value);
      this.svg.append(svg('line', { x1: CHART.left, x2: CHART.width - CHART.right, y1: y, y2: y, class: 'grid' }));
      text(CHART.left - 5, y + 4, this.settings.percent ? `${+(100 * value).toFixed(2)} %` : shortNumber(value), 'end');
    }
    for (const value of ticks(...this.x, 6, this.settings.wholeX ? 1 : 0)) text(this.atX(value), CHART.height - CHART.bottom + 15, shortNumber(value), 'middle');
    if (diagonal)
      this.svg.append(svg('line', {
        x1: this.atX(0), y1: this.atY(0), x2: this.atX(1), y2: this.atY(1), class: 'diagonal',
      }));
  }

  drawSeries({ name, points, dashed }, index) {
    const place = points.filter(([, y]) => Number.isFinite(y)).map(([x, y]) => `${this.atX(x).toFixed(1)},${this.atY(y).toFixed(1)}`);
    const kind = `series-${index % 4}${dashed ? ' dashed' : ''}`;
    this.svg.append(svg('polyline', { points: place.join(' '), class: `line ${kind}` }));
    if (points.length <= 40)
      for (const spot of place) {
        const [cx, cy] = spot.split(',');
        this.svg.append(svg('circle', { cx, cy, r: 2.5, class: `dot ${kind}` }));
      }
    if (this.settings.series.length > 1) {
      const x = CHART.width - CHART.right - 64 * (this.settings.series.length - index);
      this.svg.append(svg('line', { x1: x, x2: x + 16, y1: 10, y2: 10, class: `line ${kind}` }));
      const label = svg('text', { x: x + 20, y: 14, class: 'legend' });
      label.textContent = name;
      this.svg.append(label);
    }
  }

  /** A vertical line at x, or a ring at (x, y). */
  mark(x, y) {
    this.marker.replaceChildren();
    if (x === null || x < this.x[0] || x > this.x[1]) return;
    if (y === undefined)
      this.marker.append(svg('line', { x1: this.atX(x), x2: this.atX(x), y1: CHART.top, y2: CHART.height - CHART.bottom }));
    else this.marker.append(svg('circle', { cx: this.atX(x), cy: this.atY(y), r: 5 }));
  }
}

/** Accuracy over confidence: bins with low, high, count, accuracy, confidence; empty ones have no bar. */
function reliabilityChart(bins, describe) {
  const chart = new LineChart({
    title: 'Reliability', xLabel: 'confidence', x: [0, 1], y: [0, 1], percent: true, diagonal: true, series: [],
  });
  const summary = [];
  for (const bin of bins) {
    if (!bin.count) continue;
    const x = chart.atX(bin.low), width = chart.atX(bin.high) - x;
    const bar = svg('rect', {
      x: x + 0.5, width: width - 1, y: chart.atY(bin.accuracy), height: chart.atY(0) - chart.atY(bin.accuracy), class: 'bar',
    });
    const title = svg('title');
    title.textContent = describe(bin);
    bar.append(title);
    const [low, high] = wilson(bin.correct, bin.count);
    const middle = x + width / 2;
    chart.svg.append(bar, svg('line', { x1: middle, x2: middle, y1: chart.atY(low), y2: chart.atY(high), class: 'whisker' }));
    chart.svg.append(svg('circle', { cx: chart.atX(bin.confidence), cy: chart.atY(bin.confidence), r: 3, class: 'dot series-1' }));
    summary.push(describe(bin));
  }
  chart.svg.setAttribute('aria-label', `Reliability diagram. ${summary.join('. ')}`);
  return chart.svg;
}

// The page of a run: puts the parts together and lets them follow each other.
'use strict';

class Report {
  constructor(data) {
    this.data = data;
    this.names = data.classNames;
    this.size = this.names.length;
    this.stages = new Map(data.stages.map(stage => [stage.key, this.unpackStage(stage)]));
    this.epochs = data.epochs.map(epoch => ({ ...epoch, matrix: null }));
    this.state = {
      stage: data.stages[0]?.key ?? (this.epochs.length ? 'val' : null), epoch: null, values: 'count',
      abstain: 0, threshold: 0.5, order: 'given', chosen: null,
    };
    this.drawCurves();
    if (this.state.stage === null) return;
    this.makeControls();
    this.view = new MatrixView(byId('matrix'), {
      names: this.names, describe: (row, column) => this.describe(row, column),
      onHover: (row, column) => this.hover(row, column),
      onCell: (row, column) => this.choose({ cell: [row, column] }), onClass: index => this.choose({ index }),
    });
    this.view.set({ palette: byId('palette').value });
    this.refresh();
    byId('explorer').dataset.ready = 'true';
  }

  unpackStage(stage) {
    const rows = stage.samples ? new Samples(stage.samples, this.names) : null;
    const counts = stage.counts
      ? new SparseMatrix(this.size, cellsOf(stage.counts.cells), unpack(stage.counts.counts))
      : rows.matrix();
    return { ...stage, samples: rows, counts };
  }

  // What the page is about at the moment

  get stage() {
    return this.stages.get(this.state.stage);
  }

  get rows() {
    return this.state.epoch === null ? this.stage?.samples ?? null : null;
  }

  matrixOfEpoch(position) {
    const epoch = this.epochs[position];
    epoch.matrix ??= new SparseMatrix(this.size, cellsOf(epoch.cells), unpack(epoch.counts));
    return epoch.matrix;
  }

  /** Whether a row is shown in the matrix, and where: abstaining and the threshold of two classes move rows. */
  kept(row) {
    return this.rows.confidence[row] >= this.state.abstain;
  }

  predicted(row) {
    return this.state.threshold === 0.5 ? this.rows.predicted[row] : +(this.positive(row) >= this.state.threshold);
  }

  /** Of two classes: the probability of the second. */
  positive(row) {
    const { predicted, confidence } = this.rows;
    return predicted[row] === 1 ? confidence[row] : 1 - confidence[row];
  }

  currentCounts() {
    const { epoch, abstain, threshold } = this.state;
    if (epoch !== null) return this.matrixOfEpoch(epoch);
    if (this.rows && (abstain > 0 || threshold !== 0.5)) return this.rows.matrix(row => this.kept(row), row => this.predicted(row));
    return this.stage.counts;
  }

  refresh() {
    const { state } = this;
    this.counts = this.currentCounts();
    this.sums = this.counts.sums();
    this.showValues();
    this.view.setOrder(this.orderOf(state.order));
    const title = state.epoch === null ? this.stage.title : `Validation, epoch ${this.epochs[state.epoch].epoch}`;
    byId('shown').textContent = `${title}: ${samples(this.sums.total)}, accuracy ${shareText(this.sums.correct, this.sums.total)}`;
    byId('notes').replaceChildren(...(state.epoch === null ? this.stage.notes : []).map(note => h('li', {}, note)));
    this.fillClasses();
    this.fillConfused();
    this.fillTrust();
    this.fillSuspects();
    this.followEpoch();
    this.showDetails();
  }

  showValues() {
    const { rows, columns } = this.sums;
    const kinds = {
      count: [value => value, number],
      row: [(value, row) => value / rows[row], share => (share ? (100 * share).toFixed(1) : '0')],
      column: [(value, row, column) => value / columns[column], share => (share ? (100 * share).toFixed(1) : '0')],
    };
    const [value, text] = kinds[this.state.values];
    this.view.setData(this.counts.map((row, column, count) => value(count, row, column)), { text });
  }

  orderOf(kind) {
    const indices = [...this.names.keys()], { rows, diagonal } = this.sums;
    const by = key => indices.sort((one, other) => key(one) - key(other) || one - other);
    if (kind === 'recall') return by(index => (rows[index] ? diagonal[index] / rows[index] : 2));
    if (kind === 'size') return by(index => -rows[index]);
    if (kind === 'similarity') return (this.stage ?? this.data.stages[0]).similarity;
    return indices;
  }

  // Controls above the matrix

  makeControls() {
    const on = (id, type, act) => byId(id).addEventListener(type, act);
    const stages = [...this.stages.values()].map((stage, position) => h('label', {},
      h('input', { type: 'radio', name: 'stage', value: stage.key, checked: position === 0 }), stage.title));
    byId('stages').append(...stages);
    on('stages', 'change', event => { Object.assign(this.state, { stage: event.target.value, epoch: null }); this.refresh(); });
    on('values', 'change', event => { this.state.values = event.target.value; this.showValues(); });
    on('hide-diagonal', 'change', event => this.view.set({ hideDiagonal: event.target.checked }));
    on('logarithmic', 'change', event => this.view.set({ logarithmic: event.target.checked }));
    on('palette', 'change', event => this.view.set({ palette: event.target.value }));
    if (matchMedia('(prefers-color-scheme: dark)').matches) byId('palette').value = 'dark';
    on('order', 'change', event => { this.state.order = event.target.value; this.view.setOrder(this.orderOf(this.state.order)); });
    on('zoom-in', 'click', () => this.view.zoomTo(this.view.cell * 1.5));
    on('zoom-out', 'click', () => this.view.zoomTo(this.view.cell / 1.5));
    on('zoom-fit', 'click', () => this.view.fit());
    byId('class-names').append(...this.names.map(name => h('option', { value: name })));
    on('search', 'input', event => this.search(event.target.value));
    on('search', 'keydown', event => {
      if (event.key === 'Enter' && this.view.searched !== null) this.choose({ index: this.view.searched });
    });
    on('all-classes', 'click', () => { this.allClasses = true; this.fillClasses(); });
    for (const heading of document.querySelectorAll('#classes th button'))
      heading.addEventListener('click', () => this.sortClasses(heading.dataset.key));
    this.makeEpochControls();
    this.makeThresholds();
  }

  search(text) {
    const found = findClass(this.names, text), missing = found === -1;
    byId('search').setAttribute('aria-invalid', missing);
    byId('hover').textContent = missing ? `No class has "${text}" in its name` : '';
    this.view.search(missing ? null : found);
  }

  // One cell, one class

  describe(row, column) {
    const count = this.counts.get(row, column);
    return `true ${this.names[row]}, predicted ${this.names[column]}: ${samples(count)}`;
  }

  hover(row, column) {
    byId('hover').textContent = row === null ? '' : `${this.describe(row, column)}; ${this.shares(row, column)}`;
  }

  shares(row, column) {
    const count = this.counts.get(row, column), { rows, columns } = this.sums;
    return `row ${shareText(count, rows[row])}, column ${shareText(count, columns[column])}`;
  }

  choose(chosen) {
    this.state.chosen = chosen;
    this.showDetails();
    if (chosen.cell) this.view.moveTo(this.view.places[chosen.cell[0]], this.view.places[chosen.cell[1]], false);
    byId('details').scrollTop = 0;
  }

  showDetails() {
    const { chosen } = this.state;
    if (!chosen) return;
    byId('details').replaceChildren(...(chosen.cell ? this.cellDetails(...chosen.cell) : this.classDetails(chosen.index)));
  }

  cellDetails(row, column) {
    this.view.selected = [row, column];
    this.view.draw();
    const count = this.counts.get(row, column);
    const title = row === column ? `${this.names[row]}, recognized` : `${this.names[row]} taken for ${this.names[column]}`;
    const parts = [h('h3', {}, title), h('p', { id: 'cell-count' }, `${samples(count)}; ${this.shares(row, column)}`)];
    if (this.epochs.length > 1) parts.push(this.courseOf(row, column));
    if (this.state.epoch !== null)
      parts.push(h('p', { className: 'note' }, 'Pictures are kept of the best epoch and of the test: choose one of them above the matrix.'));
    else if (this.rows) {
      const found = this.rows.worstFirst(index => this.rows.true[index] === row && this.predicted(index) === column && this.kept(index));
      parts.push(this.pictures(found, count));
    } else parts.push(h('p', { className: 'note' }, 'The run kept no predictions of its samples (callbacks.predictions=null).'));
    return parts;
  }

  pictures(found, count) {
    const without = found.filter(row => !this.rows.tiles.has(row)).length;
    const notes = [];
    if (without && this.rows.atlas) notes.push(`${number(without)} of them without a picture`);
    if (found.length < count) notes.push(`${number(count - found.length)} more are not in this page`);
    return h('div', {}, h('p', { className: 'note' }, ['Highest loss first', ...notes].join('; ')), this.rows.gallery(found));
  }

  classDetails(index) {
    const { rows, columns, diagonal } = this.sums;
    const correct = diagonal[index], name = this.names[index];
    const errors = (title, pick, total) => {
      const found = [];
      this.counts.forEach((row, column, count) => { if (row !== column && pick(row, column)) found.push([row, column, count]); });
      found.sort((one, other) => other[2] - one[2]);
      return h('div', {}, h('h4', {}, title), found.length ? h('ol', {}, ...found.slice(0, 8).map(([row, column, count]) => h('li', {},
        h('button', { type: 'button', className: 'link', onclick: () => this.view.open(row, column) }, this.names[row === index ? column : row]),
        ` ${number(count)}, ${shareText(count, total)}`))) : h('p', {}, 'none'),
        found.length > 8 ? h('p', { className: 'note' }, `and ${found.length - 8} more classes`) : null);
    };
    const figures = [
      ['precision', shareText(correct, columns[index])], ['recall', shareText(correct, rows[index])],
      ['F1', percent(2 * correct / Math.max(1, rows[index] + columns[index]))],
      ['samples', number(rows[index])], ['predicted', number(columns[index])],
    ];
    const parts = [h('h3', {}, name), h('dl', { id: 'class-figures' }, ...figures.flatMap(([term, value]) => [h('dt', {}, term), h('dd', {}, value)])),
      errors('taken for', row => row === index, rows[index]), errors('taken for it', (row, column) => column === index, columns[index])];
    if (this.rows) {
      const wrong = this.rows.worstFirst(row => this.kept(row) && this.rows.true[row] === index && this.predicted(row) !== index);
      parts.push(h('h4', {}, 'Not recognized'), this.pictures(wrong, rows[index] - correct));
    }
    return parts;
  }

  // Lists beside the matrix

  fillConfused() {
    const errors = [];
    this.counts.forEach((row, column, count) => { if (row !== column) errors.push([row, column, count]); });
    errors.sort((one, other) => other[2] - one[2] || one[0] - other[0] || one[1] - other[1]);
    byId('confused').replaceChildren(...errors.slice(0, 20).map(([row, column, count]) => h('tr', {},
      h('td', {}, h('button', { type: 'button', className: 'link', onclick: () => { this.view.open(row, column); byId('matrix').scrollIntoView({ block: 'nearest' }); } },
        `${this.names[row]} \u2192 ${this.names[column]}`)),
      h('td', {}, number(count)), h('td', {}, shareText(count, this.sums.rows[row])))));
    byId('confused-note').textContent = errors.length > 20 ? `the first 20 of ${number(errors.length)} pairs` : errors.length ? '' : 'Nothing was confused.';
  }

  sortClasses(key) {
    this.classOrder = { key, descending: this.classOrder?.key === key && !this.classOrder.descending };
    this.fillClasses();
  }

  fillClasses() {
    const { rows, columns, diagonal } = this.sums;
    const figures = this.names.map((name, index) => ({
      name, index, correct: diagonal[index], true: rows[index], predicted: columns[index],
      precision: diagonal[index] / columns[index] || 0, recall: diagonal[index] / rows[index] || 0,
      f1: 2 * diagonal[index] / (rows[index] + columns[index]) || 0, samples: rows[index],
    }));
    const many = this.size > 50;
    const { key, descending } = this.classOrder ?? (many ? { key: 'f1' } : { key: 'index' });
    figures.sort((one, other) => (key === 'name' ? one.name.localeCompare(other.name) : one[key] - other[key]) || one.index - other.index);
    if (descending) figures.reverse();
    const shown = many && !this.allClasses ? figures.slice(0, 50) : figures;
    byId('all-classes').hidden = shown.length === figures.length;
    byId('all-classes').textContent = `show all ${number(this.size)} (${shown.length} shown)`;
    byId('class-rows').replaceChildren(...shown.map(row => h('tr', { 'data-index': row.index },
      h('td', {}, h('button', { type: 'button', className: 'link', onclick: () => this.choose({ index: row.index }) }, row.name)),
      h('td', {}, shareText(row.correct, row.predicted)), h('td', {}, shareText(row.correct, row.true)),
      h('td', {}, percent(row.f1)), h('td', {}, number(row.true)))));
    for (const heading of document.querySelectorAll('#classes th'))
      heading.setAttribute('aria-sort', heading.firstElementChild.dataset.key === key ? (descending ? 'descending' : 'ascending') : 'none');
  }

  // Epochs

  makeEpochControls() {
    if (!this.epochs.length) return;
    byId('epochs').hidden = false;
    const slider = byId('epoch');
    slider.max = this.epochs.length - 1;
    const best = this.epochs.findIndex(epoch => epoch.epoch === this.data.bestEpoch);
    slider.value = best >= 0 ? best : slider.max;
    slider.addEventListener('input', () => this.showEpoch(+slider.value));
    byId('play').addEventListener('click', () => (this.playing ? this.stop() : this.play()));
    byId('epochs-note').textContent = this.data.everyEpoch > 1
      ? `The matrix of every ${this.data.everyEpoch}th epoch and of the last one is kept.` : '';
  }

  showEpoch(position) {
    Object.assign(this.state, { stage: this.stages.has('val') ? 'val' : this.state.stage, epoch: position });
    for (const radio of document.querySelectorAll('[name=stage]')) radio.checked = false;
    this.refresh();
  }

  play() {
    let position = this.state.epoch === null || this.state.epoch === this.epochs.length - 1 ? 0 : this.state.epoch;
    const advance = () => {
      byId('epoch').value = position;
      this.showEpoch(position);
      if (++position >= this.epochs.length) this.stop();
    };
    byId('play').textContent = 'Pause';
    this.playing = setInterval(advance, Math.max(150, Math.min(700, 15000 / this.epochs.length)));
    advance();
  }

  stop() {
    clearInterval(this.playing);
    this.playing = null;
    byId('play').textContent = 'Play';
  }

  followEpoch() {
    if (!this.epochs.length) return;
    const { epoch } = this.state;
    const shown = epoch === null ? this.data.bestEpoch : this.epochs[epoch].epoch;
    byId('epoch-shown').textContent = epoch === null ? (shown ? `best: ${shown}` : '') : `epoch ${shown}`;
    byId('epoch').setAttribute('aria-valuetext', byId('epoch-shown').textContent);
    for (const chart of [...this.curves, this.course].filter(Boolean)) chart.mark(shown ?? null);
  }

  drawCurves() {
    const of = key => this.data.curves.filter(row => Number.isFinite(row[key])).map(row => [row.epoch, row[key]]);
    const chart = (title, part, isShare) => new LineChart({
      title, xLabel: 'epoch', wholeX: true, percent: isShare, pick: x => this.pickEpoch(x),
      series: [{ name: 'train', points: of(`train/${part}`) }, { name: 'val', points: of(`val/${part}`), dashed: true }],
    });
    this.curves = this.data.curves.length ? [chart('Loss', 'loss', false), chart('Accuracy', 'acc', true)] : [];
    if (this.data.rates.length)
      this.curves.push(new LineChart({ title: 'Learning rate', xLabel: 'epochs', series: [{ name: 'rate', points: this.data.rates }] }));
    byId('curves').replaceChildren(...this.curves.map(curve => curve.svg));
    byId('learning').hidden = !this.curves.length;
  }

  pickEpoch(x) {
    if (!this.epochs.length) return;
    const distance = epoch => Math.abs(epoch.epoch - x);
    const position = this.epochs.reduce((best, epoch, index) => (distance(epoch) < distance(this.epochs[best]) ? index : best), 0);
    byId('epoch').value = position;
    this.showEpoch(position);
  }

  courseOf(row, column) {
    const points = this.epochs.map((epoch, position) => [epoch.epoch, this.matrixOfEpoch(position).get(row, column)]);
    this.course = new LineChart({
      title: 'Validation, samples in this cell', xLabel: 'epoch', wholeX: true, y: [0, Math.max(1, ...points.map(point => point[1]))],
      series: [{ name: 'samples', points }], pick: x => this.pickEpoch(x),
    });
    this.course.svg.id = 'course';
    const shown = this.state.epoch === null ? this.data.bestEpoch : this.epochs[this.state.epoch].epoch;
    this.course.mark(shown ?? null);
    return this.course.svg;
  }

  // Thresholds and trust

  makeThresholds() {
    const slider = byId('abstain');
    slider.addEventListener('input', () => { this.state.abstain = +slider.value; this.later(); });
    const threshold = byId('threshold');
    threshold.addEventListener('input', () => { this.state.threshold = +threshold.value; this.later(); });
  }

  /** Follow a slider once a frame, not once an event. */
  later() {
    this.pending ??= requestAnimationFrame(() => { this.pending = null; this.refresh(); });
  }

  fillTrust() {
    const usable = this.rows !== null && this.rows.uniform > 0;
    for (const id of ['trust', 'abstaining']) byId(id).hidden = !usable;
    byId('deciding').hidden = !usable || this.size !== 2;
    if (!usable) return;
    const bins = reliabilityBins(this.rows);
    const labelled = bins.reduce((sum, bin) => sum + bin.count, 0);
    const error = bins.reduce((sum, bin) => sum + Math.abs(bin.accuracy - bin.confidence) * bin.count, 0) / labelled;
    byId('ece').textContent = percent(error, 2);
    byId('reliability').replaceChildren(reliabilityChart(bins, bin =>
      `confidence ${percent(bin.low, 0)} to ${percent(bin.high, 0)}: ${samples(bin.count)}, accuracy ${shareText(bin.correct, bin.count)}`));
    this.fillAbstaining(labelled);
    byId('binary').hidden = this.size !== 2;
    if (this.size === 2) this.fillBinary();
  }

  fillAbstaining(labelled) {
    this.rows.riskCurve ??= coverageCurve(this.rows);
    const { abstain } = this.state;
    const chart = new LineChart({
      title: 'Accuracy of what is answered', xLabel: 'share answered', x: [0, 1], percent: true,
      series: [{ name: 'accuracy', points: this.rows.riskCurve }],
    });
    chart.svg.id = 'coverage-chart';
    const matrix = this.rows.matrix(row => this.kept(row)).sums();
    if (matrix.total) chart.mark(matrix.total / labelled, matrix.correct / matrix.total);
    byId('coverage').replaceChildren(chart.svg);
    byId('abstain-shown').textContent = percent(abstain);
    byId('abstain-coverage').textContent = shareText(matrix.total, labelled);
    byId('abstain-accuracy').textContent = shareText(matrix.correct, matrix.total);
  }

  fillBinary() {
    this.rows.curves ??= binaryCurves(this.rows, row => this.positive(row));
    const { roc, precisionRecall, area, averagePrecision } = this.rows.curves;
    const matrix = this.rows.matrix(() => true, row => this.predicted(row));
    const [tn, fp, fn, tp] = [[0, 0], [0, 1], [1, 0], [1, 1]].map(cell => matrix.get(...cell));
    const chart = (title, xLabel, points, spot, diagonal) => {
      const drawn = new LineChart({ title, xLabel, x: [0, 1], y: [0, 1], percent: true, diagonal, series: [{ name: title, points }] });
      drawn.mark(...spot);
      return drawn.svg;
    };
    byId('binary-charts').replaceChildren(
      chart(`ROC, area ${area.toFixed(4)}`, 'false positive rate', roc, [fp / Math.max(1, fp + tn), tp / Math.max(1, tp + fn)], true),
      chart(`Precision and recall, average precision ${averagePrecision.toFixed(4)}`, 'recall', precisionRecall,
        [tp / Math.max(1, tp + fn), tp + fp ? tp / (tp + fp) : 1], false));
    byId('threshold-shown').textContent = `${this.names[1]} from ${percent(this.state.threshold)}`;
    byId('binary-figures').textContent = `true positive rate ${shareText(tp, tp + fn)}, false positive rate ${shareText(fp, fp + tn)}, precision ${shareText(tp, tp + fp)}`;
  }

  fillSuspects() {
    const suspects = this.rows?.suspects;
    byId('labels').hidden = !suspects?.total;
    if (!suspects?.total || this.suspectsOf === this.rows) return;
    this.suspectsOf = this.rows;
    byId('suspects-note').textContent = `${samples(suspects.total)} where the classifier is as sure of another class as it usually is where that class is right`
      + (suspects.rows.length < suspects.total ? `; the ${suspects.rows.length} surest are listed` : '');
    byId('suspects').replaceChildren(this.rows.gallery(suspects.rows));
  }
}

function reliabilityBins(rows, number = 15) {
  const bins = Array.from({ length: number }, (_, bin) => ({ low: bin / number, high: (bin + 1) / number, count: 0, correct: 0, confidence: 0 }));
  for (let row = 0; row < rows.uniform; row++) {
    if (!rows.isLabelled(row)) continue;
    const bin = bins[Math.min(number - 1, Math.floor(rows.confidence[row] * number))];
    bin.count++;
    bin.correct += rows.true[row] === rows.predicted[row];
    bin.confidence += rows.confidence[row];
  }
  for (const bin of bins) {
    bin.accuracy = bin.count ? bin.correct / bin.count : 0;
    bin.confidence = bin.count ? bin.confidence / bin.count : 0;
  }
  return bins;
}

function labelledRows(rows) {
  return [...Array(rows.uniform).keys()].filter(row => rows.isLabelled(row));
}

/** At most about 300 points of a curve, among them the first and the last. */
function thinned(points) {
  const every = Math.ceil(points.length / 300);
  return points.filter((_, index) => index % every === 0 || index === points.length - 1);
}

/** Share answered and accuracy, the surest samples first; equal confidences count together. */
function coverageCurve(rows) {
  const order = labelledRows(rows).sort((one, other) => rows.confidence[other] - rows.confidence[one]);
  const points = [];
  let correct = 0;
  order.forEach((row, index) => {
    correct += rows.true[row] === rows.predicted[row];
    const last = index === order.length - 1 || rows.confidence[order[index + 1]] !== rows.confidence[row];
    if (last && index + 1 >= Math.min(20, order.length)) points.push([(index + 1) / order.length, correct / (index + 1)]);
  });
  return thinned(points);
}

/** ROC and precision over recall for the second of two classes, with their areas. */
function binaryCurves(rows, positive) {
  const order = labelledRows(rows).map(row => [positive(row), rows.true[row]]).sort((one, other) => other[0] - one[0]);
  const positives = order.filter(([, label]) => label === 1).length, negatives = order.length - positives;
  const roc = [[0, 0]], precisionRecall = [[0, 1]];
  let truePositives = 0, falsePositives = 0, area = 0, averagePrecision = 0;
  order.forEach(([score, label], index) => {
    if (label === 1) truePositives++; else falsePositives++;
    if (index < order.length - 1 && order[index + 1][0] === score) return;
    const point = [falsePositives / Math.max(1, negatives), truePositives / Math.max(1, positives)];
    const [x, y] = roc[roc.length - 1];
    area += (point[0] - x) * (point[1] + y) / 2;
    const precision = truePositives / (truePositives + falsePositives);
    averagePrecision += (point[1] - precisionRecall[precisionRecall.length - 1][0]) * precision;
    roc.push(point);
    precisionRecall.push([point[1], precision]);
  });
  return { roc: thinned(roc), precisionRecall: thinned(precisionRecall), area, averagePrecision };
}

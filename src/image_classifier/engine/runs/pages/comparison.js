// The page that compares runs: the difference of two matrices, and the samples that one of two runs gets right.
'use strict';

class Comparison {
  constructor(data) {
    this.data = data;
    this.names = data.classNames;
    this.size = this.names.length;
    this.matrices = data.runs.map(run => new SparseMatrix(this.size, cellsOf(run.cells), unpack(run.counts)));
    this.sums = this.matrices.map(matrix => matrix.sums());
    this.pair = [0, Math.min(1, data.runs.length - 1)];
    this.state = { values: 'points', order: 'given' };
    this.samples = data.samples ? new PairedSamples(data.samples, this.names, data.runs.map(run => run.name)) : null;
    this.makeControls();
    this.view = new MatrixView(byId('matrix'), {
      names: this.names, label: 'Difference of two confusion matrices: rows true, columns predicted',
      describe: (row, column) => this.describe(row, column), onHover: (row, column) => this.hover(row, column),
      onCell: (row, column) => this.choose(row, column), onClass: index => this.choose(index, index),
    });
    this.drawSmall();
    this.refresh();
    byId('explorer').dataset.ready = 'true';
  }

  makeControls() {
    const on = (id, type, act) => byId(id).addEventListener(type, act);
    ['first', 'second'].forEach((id, side) => {
      if (!byId(id)) return;
      byId(id).append(...this.data.runs.map((run, index) => h('option', { value: index, selected: index === side }, run.name)));
      on(id, 'change', event => { this.pair[side] = +event.target.value; this.refresh(); });
    });
    on('values', 'change', event => { this.state.values = event.target.value; this.refresh(); });
    on('hide-diagonal', 'change', event => this.view.set({ hideDiagonal: event.target.checked }));
    on('logarithmic', 'change', event => this.view.set({ logarithmic: event.target.checked }));
    on('order', 'change', event => { this.state.order = event.target.value; this.refresh(); });
    on('zoom-in', 'click', () => this.view.zoomTo(this.view.cell * 1.5));
    on('zoom-out', 'click', () => this.view.zoomTo(this.view.cell / 1.5));
    on('zoom-fit', 'click', () => this.view.fit());
    byId('class-names').append(...this.names.map(name => h('option', { value: name })));
    on('search', 'input', event => {
      const found = findClass(this.names, event.target.value);
      byId('search').setAttribute('aria-invalid', found === -1);
      this.view.search(found === -1 ? null : found);
    });
  }

  refresh() {
    const [first, second] = this.pair;
    const value = (side, row, column) => {
      const count = this.matrices[side].get(row, column);
      return this.state.values === 'count' ? count : 100 * count / Math.max(1, this.sums[side].rows[row]);
    };
    const cells = new Set();
    for (const side of this.pair) this.matrices[side].forEach((row, column) => cells.add(row * this.size + column));
    const sorted = Float64Array.from(cells).sort();
    const difference = new SparseMatrix(this.size, sorted, new Float64Array(sorted.length))
      .map((row, column) => value(second, row, column) - value(first, row, column));
    this.difference = difference;
    this.view.setData(difference, { signed: true, text: this.state.values === 'count' ? signed(0) : signed(1) });
    const recall = index => difference.get(index, index);
    const given = [...this.names.keys()];
    const orders = { given, similarity: this.data.similarity, change: given.slice().sort((one, other) => recall(one) - recall(other) || one - other) };
    this.view.setOrder(orders[this.state.order]);
    if (this.chosen) this.choose(...this.chosen);
  }

  describe(row, column) {
    const [before, after] = this.pair.map(side => this.matrices[side].get(row, column));
    return `true ${this.names[row]}, predicted ${this.names[column]}: ${number(before)}, then ${number(after)}, difference ${signed(0)(after - before)}`;
  }

  hover(row, column) {
    byId('hover').textContent = row === null ? '' : this.describe(row, column);
  }

  choose(row, column) {
    this.chosen = [row, column];
    this.view.selected = this.chosen;
    this.view.draw();
    const title = row === column ? this.names[row] : `${this.names[row]} taken for ${this.names[column]}`;
    const counts = h('dl', { id: 'cell-counts' }, ...this.data.runs.flatMap((run, side) => [
      h('dt', {}, run.name), h('dd', {}, `${number(this.matrices[side].get(row, column))}; ${shareText(this.matrices[side].get(row, column), this.sums[side].rows[row])}`)]));
    const parts = [h('h3', {}, title), counts];
    if (this.samples) parts.push(...this.samples.lists(row, column));
    else if (this.data.runs.length === 2) parts.push(h('p', { className: 'note' }, 'There are no predictions of the same samples in both runs.'));
    byId('details').replaceChildren(...parts);
  }

  drawSmall() {
    const side = Math.min(this.size, 200), { colours } = colourScale('blue');
    byId('matrices-note').hidden = side === this.size;
    byId('matrices').append(...this.data.runs.map((run, index) => {
      const canvas = h('canvas', { width: side, height: side, role: 'img' });
      const { rows, correct, total } = this.sums[index];
      const summary = `${run.name}: accuracy ${shareText(correct, total)}`;
      canvas.setAttribute('aria-label', `Confusion matrix of ${summary}`);
      const context = canvas.getContext('2d'), image = context.createImageData(side, side);
      const pixels = new Uint32Array(image.data.buffer).fill(colours[0]);
      const darkest = new Float32Array(side * side);
      this.matrices[index].forEach((row, column, count) => { // of several cells in a pixel the darkest is shown
        const place = Math.floor(row * side / this.size) * side + Math.floor(column * side / this.size);
        darkest[place] = Math.max(darkest[place], count / rows[row]);
        pixels[place] = colours[Math.round(darkest[place] * (STEPS - 1))];
      });
      context.putImageData(image, 0, 0);
      return h('figure', {}, canvas, h('figcaption', {}, summary));
    }));
  }
}

/** Numbers with their sign, a minus as long as a plus. */
function signed(digits) {
  return value => {
    const text = Math.abs(value).toFixed(digits);
    return +text === 0 ? '0' : `${value > 0 ? '+' : '\u2212'}${text}`;
  };
}

/** Samples that both runs have classified: those that only one of them gets right. */
class PairedSamples extends Samples {
  constructor(packed, classNames, runs) {
    super(packed.first, classNames);
    this.runs = runs;
    for (const column of ['predicted', 'confidence', 'loss']) {
      this[`first_${column}`] = this[column];
      this[`second_${column}`] = unpack(packed.second[column]);
    }
  }

  lists(row, column) {
    const { first_predicted: first, second_predicted: second } = this;
    const taken = (index, predicted) => (row === column ? predicted[index] !== row : predicted[index] === column);
    const lost = this.worst(index => this.true[index] === row && first[index] === row && taken(index, second), this.second_loss);
    const won = this.worst(index => this.true[index] === row && second[index] === row && taken(index, first), this.first_loss);
    const list = (id, title, rows) => {
      const without = rows.filter(index => !this.tiles.has(index)).length;
      return h('div', { id }, h('h4', {}, `${title}: ${samples(rows.length)}`),
        without && this.atlas ? h('p', { className: 'note' }, `${number(without)} of them without a picture`) : null,
        this.gallery(rows, index => this.pairCard(index)));
    };
    return [list('lost', `${this.runs[0]} right, ${this.runs[1]} wrong`, lost), list('won', `${this.runs[1]} right, ${this.runs[0]} wrong`, won)];
  }

  worst(test, loss) {
    return [...Array(this.length).keys()].filter(test).sort((one, other) => loss[other] - loss[one]);
  }

  pairCard(row) {
    const name = this.name(row);
    const copy = h('button', { type: 'button', className: 'copy', 'aria-label': `Copy where it comes from: ${name}` }, 'copy');
    copy.addEventListener('click', () => copyText(name, copy));
    const says = side => `${this.classNames[this[`${side}_predicted`][row]]} ${percent(this[`${side}_confidence`][row])}`;
    return h('li', { className: 'card wrong', 'data-row': row }, this.picture(row), h('div', {}, `true: ${this.classNames[this.true[row]]}`),
      h('div', {}, `first: ${says('first')}`), h('div', {}, `second: ${says('second')}`),
      h('div', { className: 'source', title: name }, this.indices ? `index ${name}` : name.split('/').pop(), ' ', copy));
  }
}

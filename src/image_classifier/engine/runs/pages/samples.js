// The samples of a stage: their columns, their pictures, and lists of them.
'use strict';

const A_PAGE = 48; // pictures that are shown at once

class Samples {
  /** @param packed What Python wrote: true, predicted, second, confidence, loss, names, atlas, ... */
  constructor(packed, classNames) {
    this.classNames = classNames;
    for (const column of ['true', 'predicted', 'second', 'confidence', 'loss']) this[column] = unpack(packed[column]);
    this.length = this.true.length;
    this.uniform = packed.uniform; // the first so many are a random choice of all, on which curves rest
    this.names = packed.names;
    this.indices = packed.indices ? unpack(packed.indices) : null;
    this.suspects = packed.suspects;
    this.atlas = packed.atlas;
    this.tiles = new Map((packed.atlas?.rows ?? []).map((row, tile) => [row, tile]));
    if (this.atlas) {
      this.image = new Image();
      this.image.src = this.atlas.source;
      this.ready = this.image.decode();
    }
  }

  name(row) {
    return this.indices ? String(this.indices[row]) : this.names.prefix + this.names.rest[row];
  }

  isLabelled(row) {
    return this.true[row] >= 0;
  }

  /** Rows that a test holds for, the highest loss first. */
  worstFirst(test) {
    const rows = [];
    for (let row = 0; row < this.length; row++) if (this.isLabelled(row) && test(row)) rows.push(row);
    return rows.sort((one, other) => this.loss[other] - this.loss[one]);
  }

  /** The matrix of the rows that a test holds for, with predictions that may be other ones. */
  matrix(test = () => true, predicted = row => this.predicted[row]) {
    const size = this.classNames.length, cells = [];
    for (let row = 0; row < this.uniform; row++)
      if (this.isLabelled(row) && test(row)) cells.push(this.true[row] * size + predicted(row));
    return SparseMatrix.count(size, cells);
  }

  /** The picture of a row on a canvas, or a note that there is none. */
  picture(row) {
    const tile = this.tiles.get(row);
    if (tile === undefined) return h('div', { className: 'no-picture' }, 'no picture kept');
    const { width, height, columns } = this.atlas;
    const canvas = h('canvas', { width, height, className: 'picture', role: 'img', 'aria-label': `sample ${this.name(row)}` });
    canvas.dataset.row = row;
    if (Math.max(width, height) <= 32) canvas.classList.add('pixels');
    this.ready.then(() => {
      const x = (tile % columns) * width, y = Math.floor(tile / columns) * height;
      canvas.getContext('2d').drawImage(this.image, x, y, width, height, 0, 0, width, height);
    });
    return canvas;
  }

  card(row) {
    const names = this.classNames, name = this.name(row);
    const text = (...parts) => h('div', {}, ...parts);
    const copy = h('button', { type: 'button', className: 'copy', title: `Copy ${name}` }, 'copy');
    copy.setAttribute('aria-label', `Copy where it comes from: ${name}`);
    copy.addEventListener('click', () => copyText(name, copy));
    const wrong = this.true[row] !== this.predicted[row];
    return h('li', { className: `card ${wrong ? 'wrong' : 'right'}`, 'data-row': row },
      this.picture(row),
      text(h('b', {}, names[this.predicted[row]]), ` ${percent(this.confidence[row])}`),
      this.isLabelled(row) ? text(`true: ${names[this.true[row]]}`) : null,
      this.second[row] >= 0 ? text(`second: ${names[this.second[row]]}`) : null,
      this.isLabelled(row) ? text(`loss ${shortNumber(this.loss[row])}`) : null,
      h('div', { className: 'source', title: name }, this.indices ? `index ${name}` : name.split('/').pop(), ' ', copy));
  }

  /** A list of rows, a page at a time. */
  gallery(rows, card = row => this.card(row)) {
    const list = h('ul', { className: 'gallery' });
    const more = h('button', { type: 'button', className: 'more' });
    let shown = 0;
    const grow = () => {
      list.append(...rows.slice(shown, shown + A_PAGE).map(card));
      shown = Math.min(rows.length, shown + A_PAGE);
      more.textContent = `show more (${number(shown)} of ${number(rows.length)} shown)`;
      more.hidden = shown === rows.length;
    };
    more.addEventListener('click', grow);
    grow();
    return h('div', {}, list, more);
  }
}

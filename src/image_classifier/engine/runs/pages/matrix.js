// The matrix on a canvas of the size of the part in sight, over which lie elements for keyboard and screen reader.
'use strict';

const PALETTES = {
  blue: ['#ffffff', '#deebf7', '#c6dbef', '#9ecae1', '#6baed6', '#4292c6', '#2171b5', '#08519c', '#08306b'],
  cividis: ['#fdea45', '#e0cc5a', '#c0b26a', '#a59c74', '#8a8678', '#707173', '#575d6d', '#39486b', '#123570', '#00224e'],
  dark: ['#101418', '#2b1055', '#5d126e', '#932667', '#c73e4c', '#ed6925', '#fbb41a', '#fcffa4'],
  // Purple to orange: both ends keep apart for colour-blind eyes; the sign also stands in the cells.
  difference: ['#542788', '#8073ac', '#b2abd2', '#d8daeb', '#f7f7f7', '#fee0b6', '#fdb863', '#e08214', '#b35806'],
};
const STEPS = 256;
const MOST_ELEMENTS = 2500; // cells in sight that have an element each; of more, only the one with the focus
const SMALLEST_TEXT = 26, LARGEST_CELL = 96; // pixels
const LABEL_HEIGHT = 13, LEANING_LABEL_WIDTH = 18; // pixels from name to name; those of the columns lean by 45 degrees

/** STEPS colours as the bytes of a canvas, and how light each is (0 to 1). */
function colourScale(name) {
  const anchors = PALETTES[name].map(colour => [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16)));
  const colours = new Uint32Array(STEPS), lightness = new Float32Array(STEPS);
  for (let step = 0; step < STEPS; step++) {
    const place = step / (STEPS - 1) * (anchors.length - 1);
    const left = Math.min(Math.floor(place), anchors.length - 2), share = place - left;
    const [r, g, b] = anchors[left].map((value, part) => Math.round(value + share * (anchors[left + 1][part] - value)));
    colours[step] = (255 << 24 | b << 16 | g << 8 | r) >>> 0;
    lightness[step] = (0.299 * r + 0.587 * g + 0.114 * b) / 255;
  }
  return { colours, lightness };
}

class MatrixView {
  /**
   * @param root Element to fill.
   * @param options names: of the classes; describe(row, column): accessible name of a cell;
   *   onHover(row, column) with null outside; onCell(row, column); onClass(index, isRow).
   */
  constructor(root, options) {
    this.options = options;
    this.size = options.names.length;
    this.order = Uint32Array.from(options.names.keys());
    this.places = this.order.slice();
    this.palette = colourScale('blue');
    this.settings = { palette: 'blue', logarithmic: false, hideDiagonal: false, signed: false, text: number };
    this.active = [0, 0]; // places, not classes
    this.hovered = this.selected = this.searched = null;
    this.canvas = h('canvas', { className: 'matrix-canvas', 'aria-hidden': 'true' });
    this.cells = h('div', {
      className: 'matrix-cells', role: 'grid', 'aria-label': options.label ?? 'Confusion matrix: rows true, columns predicted',
      'aria-rowcount': this.size, 'aria-colcount': this.size,
    });
    this.surface = h('div', { className: 'matrix-surface' }, this.canvas, this.cells);
    this.scroller = h('div', { className: 'matrix-scroller' }, this.surface);
    this.part = h('p', { className: 'note printed' });
    root.replaceChildren(this.scroller, this.part);
    this.listen();
    this.cell = 0;
    this.setData(new SparseMatrix(this.size, [], []));
    this.fit();
    new ResizeObserver(() => this.resized()).observe(root);
  }

  // What is shown

  setData(matrix, settings = {}) {
    this.matrix = matrix;
    this.set(settings);
  }

  set(settings) {
    Object.assign(this.settings, settings);
    this.palette = colourScale(this.settings.signed ? 'difference' : this.settings.palette);
    let largest = 0;
    this.matrix.forEach((row, column, value) => {
      if (!(this.settings.hideDiagonal && row === column)) largest = Math.max(largest, Math.abs(value));
    });
    this.largest = largest || 1;
    this.draw();
    this.nameCells();
  }

  setOrder(order) {
    this.order = Uint32Array.from(order);
    this.order.forEach((index, place) => { this.places[index] = place; });
    this.draw();
    this.nameCells();
  }

  step(value) {
    const { signed, logarithmic } = this.settings;
    let share = Math.min(1, Math.abs(value) / this.largest);
    if (logarithmic) share = Math.log1p(999 * share) / Math.log(1000);
    if (signed) share = 0.5 + Math.sign(value) * share / 2;
    return Math.round(share * (STEPS - 1));
  }

  // Where things lie

  measure() {
    const context = this.canvas.getContext('2d');
    context.font = this.font();
    const longest = this.options.names.reduce((width, name) => Math.max(width, Math.min(name.length, 24)), 0);
    const sample = this.options.names.filter(name => Math.min(name.length, 24) >= longest - 4).slice(0, 50);
    const width = Math.max(...sample.map(name => context.measureText(short(name)).width), 20);
    this.left = Math.ceil(width) + 30;
    this.top = Math.ceil(width * 0.75) + 40;
  }

  font() {
    return '12px system-ui, sans-serif';
  }

  fit() {
    this.measure();
    const room = this.scroller.parentElement.clientWidth - this.left - this.diagonalOverhang() - 16;
    const height = Math.max(360, innerHeight * 0.8) - this.top - 16;
    this.zoomTo(Math.min(60, Math.max(1, Math.floor(Math.min(room, height) / this.size))));
  }

  /** Names of columns lean to the right: the last one needs room beyond its cell. */
  diagonalOverhang() {
    return Math.max(0, this.top - 36);
  }

  resized() {
    if (this.scroller.clientWidth === this.lastWidth) return;
    this.lastWidth = this.scroller.clientWidth;
    this.draw();
    this.nameCells();
  }

  /** Paper gets the part in sight as it is drawn, and a line that says which part that is. */
  freeze() {
    const { scroller, surface } = this;
    scroller.style.width = `${scroller.offsetWidth}px`;
    scroller.style.height = `${scroller.offsetHeight}px`;
    const isAll = surface.offsetWidth <= scroller.clientWidth && surface.offsetHeight <= scroller.clientHeight;
    const [rows, columns] = this.inSight().map(([first, last]) =>
      [first, last - 1].map(place => this.options.names[this.order[place]]).join(' to '));
    this.part.textContent = isAll ? '' : `The part in sight: true ${rows}; predicted ${columns}.`;
  }

  thaw() {
    this.scroller.style.width = this.scroller.style.height = '';
    this.part.textContent = '';
  }

  zoomTo(cell, x = this.scroller.clientWidth / 2, y = this.scroller.clientHeight / 2) {
    cell = Math.min(LARGEST_CELL, Math.max(1, cell));
    const before = this.cell || cell;
    const column = (this.scroller.scrollLeft + x - this.left) / before, row = (this.scroller.scrollTop + y - this.top) / before;
    this.cell = cell;
    this.surface.style.width = `${this.left + this.size * cell + this.diagonalOverhang()}px`;
    this.surface.style.height = `${this.top + this.size * cell + 1}px`;
    this.scroller.scrollLeft = column * cell + this.left - x;
    this.scroller.scrollTop = row * cell + this.top - y;
    this.draw();
    this.nameCells();
  }

  range(scroll, length) {
    return [Math.max(0, Math.floor(scroll / this.cell)), Math.min(this.size, Math.ceil((scroll + length) / this.cell))];
  }

  inSight() {
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.scroller;
    return [this.range(scrollTop, clientHeight - this.top), this.range(scrollLeft, clientWidth - this.left)];
  }

  /** Bring a place into sight. */
  reveal(row, column) {
    const along = (place, scroll, length) => {
      const start = place * this.cell, end = start + this.cell;
      return start < scroll ? start : end > scroll + length ? end - length : scroll;
    };
    const scroller = this.scroller;
    if (row !== null) scroller.scrollTop = along(row, scroller.scrollTop, scroller.clientHeight - this.top);
    if (column !== null) scroller.scrollLeft = along(column, scroller.scrollLeft, scroller.clientWidth - this.left);
  }

  // Drawing

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.paint(); });
  }

  paint() {
    const width = this.scroller.clientWidth, height = this.scroller.clientHeight;
    if (!width || !height || !this.cell) return;
    const ratio = devicePixelRatio || 1;
    const canvas = this.canvas, context = canvas.getContext('2d');
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const style = getComputedStyle(this.scroller);
    this.ink = style.getPropertyValue('--ink');
    this.soft = style.getPropertyValue('--soft');
    this.accent = style.getPropertyValue('--accent');
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    this.paintCells(context, ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.paintTexts(context);
    this.paintMarks(context);
    this.paintNames(context);
  }

  paintCells(context, ratio) {
    const { scrollLeft, scrollTop } = this.scroller;
    const x0 = Math.round(this.left * ratio), y0 = Math.round(this.top * ratio);
    const extent = this.size * this.cell;
    const width = Math.min(this.canvas.width - x0, Math.round((extent - scrollLeft) * ratio));
    const height = Math.min(this.canvas.height - y0, Math.round((extent - scrollTop) * ratio));
    if (width <= 0 || height <= 0) return;
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const { colours } = this.palette;
    pixels.fill(colours[this.step(0)]);
    const gap = this.cell >= 8 ? Math.max(1, Math.round(ratio)) : 0;
    const [[firstRow, lastRow]] = this.inSight();
    const edge = (place, scroll) => Math.round((place * this.cell - scroll) * ratio);
    for (let row = firstRow; row < lastRow; row++) {
      const index = this.order[row];
      const yStart = Math.max(0, edge(row, scrollTop)), yEnd = Math.min(height, Math.max(edge(row + 1, scrollTop) - gap, yStart + 1));
      for (let entry = this.matrix.starts[index]; entry < this.matrix.starts[index + 1]; entry++) {
        const other = this.matrix.columns[entry];
        if (this.settings.hideDiagonal && other === index) continue;
        const column = this.places[other];
        const xStart = Math.max(0, edge(column, scrollLeft)), xEnd = Math.min(width, Math.max(edge(column + 1, scrollLeft) - gap, xStart + 1));
        if (xEnd <= 0 || xStart >= width) continue;
        const colour = colours[this.step(this.matrix.values[entry])];
        for (let y = yStart; y < yEnd; y++) pixels.fill(colour, y * width + xStart, y * width + xEnd);
      }
    }
    if (gap) this.paintGaps(pixels, width, height, ratio, gap, edge);
    context.putImageData(image, x0, y0);
  }

  paintGaps(pixels, width, height, ratio, gap, edge) {
    const { scrollLeft, scrollTop } = this.scroller;
    const [[firstRow, lastRow], [firstColumn, lastColumn]] = this.inSight();
    const dark = this.settings.palette === 'dark' && !this.settings.signed;
    const line = dark ? 0xff3a332c : 0xffe3ded9;
    for (let row = firstRow; row < lastRow; row++)
      for (let y = Math.max(0, edge(row + 1, scrollTop) - gap); y < Math.min(height, edge(row + 1, scrollTop)); y++)
        pixels.fill(line, y * width, (y + 1) * width);
    for (let column = firstColumn; column < lastColumn; column++)
      for (let x = Math.max(0, edge(column + 1, scrollLeft) - gap); x < Math.min(width, edge(column + 1, scrollLeft)); x++)
        for (let y = 0; y < height; y++) pixels[y * width + x] = line;
  }

  paintTexts(context) {
    if (this.cell < SMALLEST_TEXT) {
      if (this.settings.signed && this.cell >= 5) this.paintSigns(context);
      return;
    }
    const [[firstRow, lastRow], [firstColumn, lastColumn]] = this.inSight();
    const { scrollLeft, scrollTop } = this.scroller;
    context.save();
    context.beginPath();
    context.rect(this.left, this.top, this.scroller.clientWidth, this.scroller.clientHeight);
    context.clip();
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    for (let row = firstRow; row < lastRow; row++) {
      for (let column = firstColumn; column < lastColumn; column++) {
        const [index, other] = [this.order[row], this.order[column]];
        if (this.settings.hideDiagonal && index === other) continue;
        const value = this.matrix.get(index, other);
        const text = this.settings.text(value);
        context.font = `${Math.min(14, Math.floor(1.7 * (this.cell - 4) / Math.max(text.length, 2)))}px system-ui, sans-serif`;
        context.globalAlpha = value ? 1 : 0.35;
        context.fillStyle = this.palette.lightness[this.step(value)] > 0.55 ? '#111' : '#fff';
        context.fillText(text, this.left + (column + 0.5) * this.cell - scrollLeft, this.top + (row + 0.5) * this.cell - scrollTop);
      }
    }
    context.restore();
  }

  /** Where there is no room for numbers, a plus or a minus tells without colour which way a cell went. */
  paintSigns(context) {
    const [[firstRow, lastRow]] = this.inSight();
    const { scrollLeft, scrollTop } = this.scroller;
    const arm = Math.max(1.5, this.cell * 0.25);
    context.save();
    context.beginPath();
    context.rect(this.left, this.top, this.scroller.clientWidth, this.scroller.clientHeight);
    context.clip();
    context.lineWidth = 1;
    for (let row = firstRow; row < lastRow; row++) {
      const index = this.order[row];
      for (let entry = this.matrix.starts[index]; entry < this.matrix.starts[index + 1]; entry++) {
        const other = this.matrix.columns[entry], value = this.matrix.values[entry];
        if (!value || (this.settings.hideDiagonal && other === index)) continue;
        const x = this.left + (this.places[other] + 0.5) * this.cell - scrollLeft;
        const y = this.top + (row + 0.5) * this.cell - scrollTop;
        context.strokeStyle = this.palette.lightness[this.step(value)] > 0.55 ? '#111' : '#fff';
        context.beginPath();
        context.moveTo(x - arm, y);
        context.lineTo(x + arm, y);
        if (value > 0) { context.moveTo(x, y - arm); context.lineTo(x, y + arm); }
        context.stroke();
      }
    }
    context.restore();
  }

  paintMarks(context) {
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.scroller;
    context.save();
    context.beginPath();
    context.rect(this.left - 2, this.top - 2, clientWidth, clientHeight);
    context.clip();
    const box = (row, column, width, dash) => {
      context.lineWidth = width;
      context.setLineDash(dash);
      context.strokeRect(this.left + column * this.cell - scrollLeft, this.top + row * this.cell - scrollTop, this.cell, this.cell);
    };
    context.strokeStyle = this.accent;
    if (this.searched !== null) {
      const place = this.places[this.searched], extent = this.size * this.cell;
      context.lineWidth = 2;
      context.strokeRect(this.left - scrollLeft, this.top + place * this.cell - scrollTop, extent, this.cell);
      context.strokeRect(this.left + place * this.cell - scrollLeft, this.top - scrollTop, this.cell, extent);
    }
    if (this.hovered) box(this.places[this.hovered[0]], this.places[this.hovered[1]], 1.5, []);
    if (this.selected) box(this.places[this.selected[0]], this.places[this.selected[1]], 3, []);
    if (this.cells.contains(document.activeElement)) {
      context.strokeStyle = this.ink;
      box(...this.active, 2, [4, 2]);
    }
    context.restore();
  }

  paintNames(context) {
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.scroller;
    const [[firstRow, lastRow], [firstColumn, lastColumn]] = this.inSight();
    const every = space => Math.max(1, Math.ceil(space / this.cell));
    const everyRow = every(LABEL_HEIGHT), everyColumn = every(LEANING_LABEL_WIDTH);
    context.font = this.font();
    context.textBaseline = 'middle';
    const colour = index => {
      const marked = index === this.searched;
      context.fillStyle = marked ? this.accent : this.ink;
      context.font = (marked ? 'bold ' : '') + this.font();
    };
    context.save();
    context.beginPath();
    context.rect(0, this.top, this.left, clientHeight);
    context.clip();
    context.textAlign = 'right';
    for (let row = firstRow - firstRow % everyRow; row < lastRow; row += everyRow) {
      colour(this.order[row]);
      context.fillText(short(this.options.names[this.order[row]]), this.left - 5, this.top + (row + 0.5) * this.cell - scrollTop);
    }
    context.restore();
    context.save();
    context.beginPath();
    context.rect(this.left - 4, 0, clientWidth, this.top - 2);
    context.clip();
    context.textAlign = 'left';
    for (let column = firstColumn - firstColumn % everyColumn; column < lastColumn; column += everyColumn) {
      colour(this.order[column]);
      context.save();
      context.translate(this.left + (column + 0.5) * this.cell - scrollLeft, this.top - 6);
      context.rotate(-Math.PI / 4);
      context.fillText(short(this.options.names[this.order[column]]), 0, 0);
      context.restore();
    }
    context.restore();
    context.font = this.font();
    context.fillStyle = this.soft;
    context.textAlign = 'left';
    context.fillText('predicted \u2192', this.left, 8);
    context.textAlign = 'right';
    context.save();
    context.translate(8, this.top);
    context.rotate(-Math.PI / 2);
    context.fillText('\u2190 true', 0, 0);
    context.restore();
  }

  // Elements for keyboard and screen reader

  nameCells() {
    clearTimeout(this.naming);
    this.naming = setTimeout(() => this.placeElements(), 60);
  }

  placeElements() {
    const [[firstRow, lastRow], [firstColumn, lastColumn]] = this.inSight();
    const all = this.cell >= 12 && (lastRow - firstRow) * (lastColumn - firstColumn) <= MOST_ELEMENTS;
    const focused = this.cells.contains(document.activeElement);
    const [activeRow, activeColumn] = this.active;
    const rows = new Map();
    const add = (row, column) => {
      if (!rows.has(row)) rows.set(row, h('div', { role: 'row', 'aria-rowindex': row + 1 }));
      rows.get(row).append(this.element(row, column));
    };
    if (all)
      for (let row = firstRow; row < lastRow; row++)
        for (let column = firstColumn; column < lastColumn; column++) add(row, column);
    const inside = all && activeRow >= firstRow && activeRow < lastRow && activeColumn >= firstColumn && activeColumn < lastColumn;
    if (!inside) add(activeRow, activeColumn);
    this.cells.replaceChildren(...rows.values());
    if (focused) this.activeElement().focus({ preventScroll: true });
  }

  element(row, column) {
    const [index, other] = [this.order[row], this.order[column]];
    const isActive = row === this.active[0] && column === this.active[1];
    const cell = h('div', {
      role: 'gridcell', className: 'cell', tabIndex: isActive ? 0 : -1, 'aria-colindex': column + 1,
      'aria-label': this.options.describe(index, other), 'data-true': index, 'data-predicted': other,
    });
    cell.style.left = `${this.left + column * this.cell}px`;
    cell.style.top = `${this.top + row * this.cell}px`;
    cell.style.width = cell.style.height = `${this.cell}px`;
    return cell;
  }

  /** Let the active cell be the one that the tabulator key reaches; all are made anew only where it has no element. */
  activate() {
    const [row, column] = this.active.map(place => this.order[place]);
    const cell = this.cells.querySelector(`[data-true="${row}"][data-predicted="${column}"]`);
    if (!cell) {
      this.placeElements();
      return;
    }
    this.activeElement()?.setAttribute('tabindex', -1);
    cell.tabIndex = 0;
  }

  activeElement() {
    return this.cells.querySelector('[tabindex="0"]');
  }

  // Pointer and keys

  listen() {
    const scroller = this.scroller;
    addEventListener('beforeprint', () => this.freeze());
    addEventListener('afterprint', () => this.thaw());
    scroller.addEventListener('scroll', () => { this.draw(); this.nameCells(); });
    scroller.addEventListener('wheel', event => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const box = scroller.getBoundingClientRect();
      this.zoomTo(this.cell * Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    scroller.addEventListener('pointermove', event => {
      const found = this.at(event);
      const cell = found && found.row !== null && found.column !== null ? [found.row, found.column] : null;
      if (String(cell) === String(this.hovered)) return;
      this.hovered = cell;
      scroller.style.cursor = found ? 'pointer' : '';
      this.options.onHover(...(cell ?? [null, null]));
      this.draw();
    });
    scroller.addEventListener('pointerleave', () => {
      this.hovered = null;
      this.options.onHover(null, null);
      this.draw();
    });
    scroller.addEventListener('click', event => {
      const found = this.at(event);
      if (!found) return;
      if (found.row !== null && found.column !== null) {
        this.moveTo(this.places[found.row], this.places[found.column], true);
        this.open(found.row, found.column);
      } else if (found.row !== null) this.options.onClass(found.row, true);
      else this.options.onClass(found.column, false);
    });
    this.cells.addEventListener('focusin', () => {
      const [row, column] = this.active;
      const cell = [this.order[row], this.order[column]];
      this.options.onHover(...cell);
      this.draw();
    });
    this.cells.addEventListener('focusout', () => this.draw());
    this.cells.addEventListener('keydown', event => this.pressed(event));
  }

  /** The classes under the pointer: a cell, or over the names a row or a column alone. */
  at(event) {
    const target = event.target.closest?.('.cell');
    if (target && event.detail === 0) return { row: +target.dataset.true, column: +target.dataset.predicted }; // no mouse
    const box = this.scroller.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    if (x >= this.scroller.clientWidth || y >= this.scroller.clientHeight) return null; // a scroll bar
    const place = (position, start, scroll) => {
      if (position < start) return null;
      const index = Math.floor((position - start + scroll) / this.cell);
      return index < this.size ? this.order[index] : undefined;
    };
    const row = place(y, this.top, this.scroller.scrollTop);
    let column = place(x, this.left, this.scroller.scrollLeft);
    if (row === null) // names lean: go down along them to their column
      column = place(x - (this.top - 6 - y), this.left, this.scroller.scrollLeft);
    if (row === undefined || column === undefined || (row === null && column === null)) return null;
    return { row, column };
  }

  open(row, column) {
    this.selected = [row, column];
    this.draw();
    this.options.onCell(row, column);
  }

  moveTo(row, column, focus) {
    const limit = place => Math.min(this.size - 1, Math.max(0, place));
    this.active = [limit(row), limit(column)];
    this.reveal(...this.active);
    this.activate();
    if (focus) this.activeElement().focus({ preventScroll: true });
    this.draw();
  }

  pressed(event) {
    const [row, column] = this.active, page = 10, end = this.size - 1;
    const moves = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      PageUp: [row - page, column], PageDown: [row + page, column],
      Home: event.ctrlKey ? [0, 0] : [row, 0], End: event.ctrlKey ? [end, end] : [row, end],
    };
    if (event.key in moves) this.moveTo(...moves[event.key], true);
    else if (event.key === 'Enter' || event.key === ' ') this.open(this.order[row], this.order[column]);
    else if (event.key === '+' || event.key === '=') this.zoomTo(this.cell * 1.5);
    else if (event.key === '-') this.zoomTo(this.cell / 1.5);
    else return;
    event.preventDefault();
  }

  /** Mark a class and bring its row and column into sight; null marks none. */
  search(index) {
    this.searched = index;
    if (index !== null) {
      if (this.cell < LEANING_LABEL_WIDTH) this.zoomTo(LEANING_LABEL_WIDTH);
      this.moveTo(this.places[index], this.places[index], false);
    }
    this.draw();
  }
}

function short(name) {
  return name.length > 24 ? `${name.slice(0, 11)}\u2026${name.slice(-12)}` : name;
}

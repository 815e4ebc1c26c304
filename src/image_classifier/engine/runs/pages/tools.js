// Small things that all parts of the page use: elements, numbers as text, packed arrays, statistics.
'use strict';

/** An element with properties, listeners (onclick: ...), attributes (the rest) and children. */
function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== 'list') element[name] = value;
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const byId = id => document.getElementById(id);
const whole = new Intl.NumberFormat('en');
const number = value => whole.format(value);
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const samples = count => `${number(count)} ${count === 1 ? 'sample' : 'samples'}`;

/** The interval in which a share of `total` lies with 95 % confidence (Wilson 1927). */
function wilson(successes, total) {
  if (total === 0) return [0, 1];
  const z = 1.959963984540054;
  const share = successes / total, scale = 1 + z * z / total;
  const middle = (share + z * z / (2 * total)) / scale;
  const half = z / scale * Math.sqrt(share * (1 - share) / total + z * z / (4 * total * total));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

/** A share with its interval, such as "93.2 % (92.7 to 93.7)". */
function shareText(successes, total) {
  if (total === 0) return 'none';
  const [low, high] = wilson(successes, total);
  return `${percent(successes / total)} (${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)})`;
}

const KINDS = { i8: Int8Array, i16: Int16Array, i32: Int32Array, f32: Float32Array };

/** An array that Python packed as "kind:base64", little-endian; "v" holds whole numbers of any length, 7 bits a byte. */
function unpack(text) {
  const [kind, content] = text.split(':');
  const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
  if (kind !== 'v') return new KINDS[kind](bytes.buffer);
  const values = [];
  let value = 0, factor = 1;
  for (const byte of bytes) {
    value += (byte & 127) * factor;
    factor *= 128;
    if (byte < 128) {
      values.push(value);
      value = 0;
      factor = 1;
    }
  }
  return Float64Array.from(values);
}

/** Cells from the differences between them. */
function cellsOf(packed) {
  const cells = unpack(packed);
  for (let index = 1; index < cells.length; index++) cells[index] += cells[index - 1];
  return cells;
}

/** A matrix that holds only the cells that are not empty: row r has the entries starts[r] to starts[r + 1]. */
class SparseMatrix {
  /** Cells are true * size + predicted, ascending. */
  constructor(size, cells, values) {
    this.size = size;
    this.starts = new Uint32Array(size + 1);
    this.columns = new Uint32Array(cells.length);
    this.values = values;
    cells.forEach((cell, index) => {
      this.starts[Math.floor(cell / size) + 1]++;
      this.columns[index] = cell % size;
    });
    for (let row = 0; row < size; row++) this.starts[row + 1] += this.starts[row];
  }

  /** Counts how often each cell appears. */
  static count(size, cells) {
    const sorted = Float64Array.from(cells).sort();
    const distinct = [], counts = [];
    for (const cell of sorted) {
      if (distinct.length && distinct[distinct.length - 1] === cell) counts[counts.length - 1]++;
      else { distinct.push(cell); counts.push(1); }
    }
    return new SparseMatrix(size, distinct, counts);
  }

  get(row, column) {
    let low = this.starts[row], high = this.starts[row + 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.columns[middle] < column) low = middle + 1; else high = middle;
    }
    return low < this.starts[row + 1] && this.columns[low] === column ? this.values[low] : 0;
  }

  /** Calls visit(row, column, value, index) for every cell that is not empty. */
  forEach(visit) {
    for (let row = 0; row < this.size; row++)
      for (let index = this.starts[row]; index < this.starts[row + 1]; index++)
        visit(row, this.columns[index], this.values[index], index);
  }

  /** The same cells with other values. */
  map(change) {
    const other = Object.create(SparseMatrix.prototype);
    Object.assign(other, this);
    other.values = new Float64Array(this.values.length);
    this.forEach((row, column, value, index) => { other.values[index] = change(row, column, value); });
    return other;
  }

  /** Sums of rows, of columns, the diagonal, the total. */
  sums() {
    const rows = new Float64Array(this.size), columns = new Float64Array(this.size);
    const diagonal = new Float64Array(this.size);
    let total = 0, correct = 0;
    this.forEach((row, column, value) => {
      rows[row] += value;
      columns[column] += value;
      total += value;
      if (row === column) { diagonal[row] = value; correct += value; }
    });
    return { rows, columns, diagonal, total, correct };
  }
}

/** Position of a class by its name or a part of it; null for no text, -1 for none. */
function findClass(names, text) {
  const wanted = text.trim().toLowerCase();
  if (wanted === '') return null;
  const exact = names.findIndex(name => name.toLowerCase() === wanted);
  return exact >= 0 ? exact : names.findIndex(name => name.toLowerCase().includes(wanted));
}

/** Write a text to the clipboard, also where the browser offers pages from a file no better way. */
async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h('textarea', { value: text, className: 'hidden' });
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
    button.focus();
  }
  const before = button.textContent;
  button.textContent = 'copied';
  setTimeout(() => { button.textContent = before; }, 1200);
}

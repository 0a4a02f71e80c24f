// A treemap's layout: rectangles whose areas are true and whose sides are as equal as can be (Bruls, Huizing and
// van Wijk, 2000). It knows no page.

const worst = (row, sum, side) => {
  const first = row[0].area;
  const last = row[row.length - 1].area;
  return Math.max((side * side * first) / (sum * sum), (sum * sum) / (side * side * last));
};

/**
 * Lay items out in a rectangle.
 *
 * @param {{size: number}[]} items any order; sizes of 0 and below get no rectangle
 * @param {{x: number, y: number, width: number, height: number}} box
 * @returns {{item: object, x: number, y: number, width: number, height: number}[]} the biggest first
 */
export function squarify(items, box) {
  const sized = items.filter((item) => item.size > 0).sort((one, other) => other.size - one.size);
  const total = sized.reduce((sum, item) => sum + item.size, 0);
  if (!total || box.width <= 0 || box.height <= 0) return [];
  const scale = (box.width * box.height) / total;
  const todo = sized.map((item) => ({ item, area: item.size * scale }));
  const placed = [];
  let { x, y, width, height } = box;
  let at = 0;
  while (at < todo.length) {
    const side = Math.min(width, height);
    const row = [todo[at]];
    let sum = todo[at].area;
    let ratio = worst(row, sum, side);
    at += 1;
    while (at < todo.length) {
      row.push(todo[at]);
      const next = worst(row, sum + todo[at].area, side);
      if (next > ratio) {
        row.pop();
        break;
      }
      sum += todo[at].area;
      ratio = next;
      at += 1;
    }
    const thick = side > 0 ? sum / side : 0;
    let along = 0;
    for (const one of row) {
      const length = sum > 0 ? (one.area / sum) * side : 0;
      placed.push(
        width >= height
          ? { item: one.item, x, y: y + along, width: thick, height: length }
          : { item: one.item, x: x + along, y, width: length, height: thick },
      );
      along += length;
    }
    if (width >= height) {
      x += thick;
      width = Math.max(0, width - thick);
    } else {
      y += thick;
      height = Math.max(0, height - thick);
    }
  }
  return placed;
}

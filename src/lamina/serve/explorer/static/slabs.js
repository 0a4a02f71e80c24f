// How thick the slabs of a stack are, and where they lie. It knows no page.

/**
 * Thicknesses true to the sizes, as far as each slab can still be seen.
 *
 * @param {number[]} sizes
 * @param {number} height what all slabs have together
 * @param {number} least no slab is thinner
 * @returns {number[]}
 */
export function thicknesses(sizes, height, least) {
  const room = Math.max(height, sizes.length * least);
  const fixed = new Set();
  for (;;) {
    const free = sizes.reduce((sum, size, at) => sum + (fixed.has(at) ? 0 : size), 0);
    const left = room - fixed.size * least;
    const scale = free > 0 ? left / free : 0;
    const thin = sizes.flatMap((size, at) => (!fixed.has(at) && size * scale < least ? [at] : []));
    if (!thin.length) return sizes.map((size, at) => (fixed.has(at) ? least : size * scale));
    for (const at of thin) fixed.add(at);
  }
}

/**
 * The faces of a slab that is seen from above at an angle, as points of polygons.
 *
 * @param {{x: number, y: number, width: number, depth: number, thick: number}} slab the middle of the back corner,
 *   half the width, half the depth
 */
export function faces({ x, y, width, depth, thick }) {
  const left = `${x - width},${y + depth}`;
  const front = `${x},${y + 2 * depth}`;
  const right = `${x + width},${y + depth}`;
  return {
    top: `${x},${y} ${right} ${front} ${left}`,
    left: `${left} ${front} ${x},${y + 2 * depth + thick} ${x - width},${y + depth + thick}`,
    right: `${right} ${front} ${x},${y + 2 * depth + thick} ${x + width},${y + depth + thick}`,
  };
}

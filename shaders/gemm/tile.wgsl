// gemm/tile: y(m,n) = Σ_k A(m,k) · B(k,n), the part that all kernels of matrix products and convolutions on GPUs share
//
// A workgroup owns a TILE_M × TILE_N tile of y and passes over the depth k in slabs of TILE_K. An invocation owns
// MICRO_M × MICRO_N elements of the tile. Where SHARES invocations own the same elements, each takes every SHARES-th k of a
// slab, and they add up their sums in the end. Two slabs lie in workgroup memory: one is multiplied while the next is
// loaded into registers, so that a slab takes one barrier.
//
// A slab has a row of vec4s for each k. The four elements of vec4 q of a row are M_QUADS (N_QUADS) apart: q, M_QUADS + q and
// so on. Neighbouring invocations then load neighbours, store vec4s side by side, and write neighbours of y.
//
// The file that includes this one says where elements lie. An address is the sum of two parts, one of which may be NOWHERE:
// the element is then 0, or is not written.
//   a, b, y                 the buffers
//   A_ALONG_K, B_ALONG_K    1 where neighbours along k are neighbours in memory, 0 where those along m or n are
//   A_IS_WHOLE              whether no slab reaches beyond A
//   B_HEIGHT, B_WIDTH       of the plane that an element of B has to lie in
//   Tile, tile_of           the tile of a workgroup; m and n are its first row and column
//   slab_count, slab_after  the slabs of a tile; (0, 0) is the first
//   a_row, b_column         what a row of A and a column of B add to an address
//   depth_at                what index k of a slab adds to the addresses of A and of B
//   y_row, y_column         the parts of an address in y

const TILE_M: u32 = 64u;
const TILE_N: u32 = 128u;
const TILE_K: u32 = 8u;
const MICRO_M: u32 = 8u;
const MICRO_N: u32 = 8u;
const SHARES: u32 = 1u;

// A part of an address that lies beyond any buffer, and with any other part does so.
const NOWHERE: u32 = 0x40000000u;

const ROWS: u32 = TILE_M / MICRO_M;
const COLUMNS: u32 = TILE_N / MICRO_N;
const INVOCATIONS: u32 = ROWS * COLUMNS * SHARES; // a multiple of M_QUADS, of N_QUADS and of TILE_K
const M_QUADS: u32 = TILE_M / 4u;
const N_QUADS: u32 = TILE_N / 4u;

// One vec4 more a row: invocations that store a column of a slab do so in different memory banks.
const A_PITCH: u32 = M_QUADS + 1u;
const B_PITCH: u32 = N_QUADS + 1u;
const B_SLAB: u32 = TILE_K * A_PITCH; // where B's begins
const SLAB: u32 = B_SLAB + TILE_K * B_PITCH;
var<workgroup> slabs: array<vec4<f32>, 2u * SLAB>;

// Of a slab's vec4s, counted from the invocation's first on, the l-th has its row GROUP_STEP · l and its k K_STEP · l
// further: neighbouring invocations are neighbours along k (ALONG_K = 1) or along the row, as they are in memory.
const A_LOADS: u32 = (M_QUADS * TILE_K + INVOCATIONS - 1u) / INVOCATIONS;
const A_GROUP_STEP: u32 = A_ALONG_K * (INVOCATIONS / TILE_K);
const A_K_STEP: u32 = (1u - A_ALONG_K) * (INVOCATIONS / M_QUADS);
const A_IS_EVEN: bool = A_LOADS * INVOCATIONS == M_QUADS * TILE_K; // every invocation loads as many
const B_LOADS: u32 = (N_QUADS * TILE_K + INVOCATIONS - 1u) / INVOCATIONS;
const B_GROUP_STEP: u32 = B_ALONG_K * (INVOCATIONS / TILE_K);
const B_K_STEP: u32 = (1u - B_ALONG_K) * (INVOCATIONS / N_QUADS);
const B_IS_EVEN: bool = B_LOADS * INVOCATIONS == N_QUADS * TILE_K;

// What a column of B, and an index k of the depth, add to an element's address, and to its row and column in a plane of
// B_HEIGHT × B_WIDTH, outside of which B is 0; both may wrap round below 0.
struct Column {
    at: u32,
    h: u32,
    v: u32,
}
struct Depth {
    a: u32,
    b: u32,
    h: u32,
    v: u32,
}

fn a_at(row: u32, depth: Depth) -> f32 {
    let at = row + depth.a;
    let is_inside = A_IS_WHOLE || at < NOWHERE;
    return select(0.0, a[select(0u, at, is_inside)], is_inside);
}

fn b_at(column: Column, depth: Depth) -> f32 {
    let is_inside = (column.h + depth.h < B_HEIGHT) & (column.v + depth.v < B_WIDTH);
    return select(0.0, b[select(0u, column.at + depth.b, is_inside)], is_inside);
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let tile = tile_of(workgroup, workgroups);

    // What this invocation loads of each slab, as far as all slabs have it in common.
    let a_group = select(invocation % M_QUADS, invocation / TILE_K, A_ALONG_K == 1u);
    let a_k = select(invocation / M_QUADS, invocation % TILE_K, A_ALONG_K == 1u);
    let b_group = select(invocation % N_QUADS, invocation / TILE_K, B_ALONG_K == 1u);
    let b_k = select(invocation / N_QUADS, invocation % TILE_K, B_ALONG_K == 1u);
    var rows: array<array<u32, 4>, A_LOADS>;
    var columns: array<array<Column, 4>, B_LOADS>;
    for (var l = 0u; l < A_LOADS; l++) {
        for (var e = 0u; e < 4u; e++) {
            rows[l][e] = a_row(tile, tile.m + e * M_QUADS + a_group + l * A_GROUP_STEP);
        }
    }
    for (var l = 0u; l < B_LOADS; l++) {
        for (var e = 0u; e < 4u; e++) {
            columns[l][e] = b_column(tile, tile.n + e * N_QUADS + b_group + l * B_GROUP_STEP);
        }
    }

    let share = select(invocation / (ROWS * COLUMNS), 0u, SHARES == 1u);
    let row = invocation / COLUMNS % ROWS;
    let column = invocation % COLUMNS;
    var sums: array<array<vec4<f32>, MICRO_N / 4u>, MICRO_M>;
    var a_next: array<vec4<f32>, A_LOADS>;
    var b_next: array<vec4<f32>, B_LOADS>;
    var slab = vec2<u32>();
    let count = slab_count(tile);
    for (var index = 0u; index <= count; index++) {
        // After the last slab, it is loaded once more in vain.
        for (var l = 0u; l < A_LOADS; l++) {
            let depth = depth_at(tile, slab, a_k + l * A_K_STEP);
            a_next[l] = vec4(a_at(rows[l][0], depth), a_at(rows[l][1], depth), a_at(rows[l][2], depth), a_at(rows[l][3], depth));
        }
        for (var l = 0u; l < B_LOADS; l++) {
            let depth = depth_at(tile, slab, b_k + l * B_K_STEP);
            b_next[l] = vec4(
                b_at(columns[l][0], depth),
                b_at(columns[l][1], depth),
                b_at(columns[l][2], depth),
                b_at(columns[l][3], depth),
            );
        }
        if index + 1u < count {
            slab = slab_after(tile, slab);
        }

        if index > 0u {
            let a_from = (index - 1u) % 2u * SLAB + row;
            let b_from = (index - 1u) % 2u * SLAB + B_SLAB + column;
            for (var t = 0u; t < TILE_K / SHARES; t++) {
                let k = t * SHARES + share;
                var b_quads: array<vec4<f32>, MICRO_N / 4u>;
                for (var j = 0u; j < MICRO_N / 4u; j++) {
                    b_quads[j] = slabs[b_from + k * B_PITCH + j * COLUMNS];
                }
                for (var i = 0u; i < MICRO_M / 4u; i++) {
                    let a_quad = slabs[a_from + k * A_PITCH + i * ROWS];
                    for (var j = 0u; j < MICRO_N / 4u; j++) {
                        sums[4u * i][j] = fma(vec4(a_quad.x), b_quads[j], sums[4u * i][j]);
                        sums[4u * i + 1u][j] = fma(vec4(a_quad.y), b_quads[j], sums[4u * i + 1u][j]);
                        sums[4u * i + 2u][j] = fma(vec4(a_quad.z), b_quads[j], sums[4u * i + 2u][j]);
                        sums[4u * i + 3u][j] = fma(vec4(a_quad.w), b_quads[j], sums[4u * i + 3u][j]);
                    }
                }
            }
        }
        if index == count {
            break;
        }

        // The other slab may still be read, this one no more: the barrier of the slab before lies between.
        let to = index % 2u * SLAB;
        for (var l = 0u; l < A_LOADS; l++) {
            if A_IS_EVEN || (a_k + l * A_K_STEP < TILE_K && a_group + l * A_GROUP_STEP < M_QUADS) {
                slabs[to + (a_k + l * A_K_STEP) * A_PITCH + a_group + l * A_GROUP_STEP] = a_next[l];
            }
        }
        for (var l = 0u; l < B_LOADS; l++) {
            if B_IS_EVEN || (b_k + l * B_K_STEP < TILE_K && b_group + l * B_GROUP_STEP < N_QUADS) {
                slabs[to + B_SLAB + (b_k + l * B_K_STEP) * B_PITCH + b_group + l * B_GROUP_STEP] = b_next[l];
            }
        }
        workgroupBarrier();
    }

    // An invocation adds up every SHARES-th of the rows that it shares, always in the same order.
    if SHARES > 1u {
        for (var i = 0u; i < MICRO_M; i++) {
            workgroupBarrier();
            for (var j = 0u; j < MICRO_N / 4u; j++) {
                slabs[(j * SHARES + share) * (ROWS * COLUMNS) + row * COLUMNS + column] = sums[i][j];
            }
            workgroupBarrier();
            if i % SHARES == share {
                for (var j = 0u; j < MICRO_N / 4u; j++) {
                    sums[i][j] = slabs[j * SHARES * (ROWS * COLUMNS) + row * COLUMNS + column];
                    for (var other = 1u; other < SHARES; other++) {
                        sums[i][j] += slabs[(j * SHARES + other) * (ROWS * COLUMNS) + row * COLUMNS + column];
                    }
                }
            }
        }
    }
    for (var j = 0u; j < MICRO_N / 4u; j++) {
        for (var e = 0u; e < 4u; e++) {
            let to_column = y_column(tile, tile.n + e * N_QUADS + column + j * COLUMNS);
            for (var i = 0u; i < MICRO_M; i++) {
                let to = to_column + y_row(tile, tile.m + i % 4u * M_QUADS + row + i / 4u * ROWS);
                if i % SHARES == share && to < NOWHERE {
                    y[to] = sums[i][j][e];
                }
            }
        }
    }
}

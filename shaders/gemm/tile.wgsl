// gemm/tile: y(m,n) = Σ_k A(m,k) · B(k,n), after gemm/loads: the products of kernels on GPUs
//
// An invocation owns MICRO_M × MICRO_N elements of the workgroup's tile. Where SHARES invocations own the same elements, each
// takes every SHARES-th k of a slab, and they add up their sums in the end. Two slabs lie in workgroup memory: one is
// multiplied while the next is on its way into registers, so that a slab takes one barrier, and the products cover the loads.
//
// Neighbouring invocations are neighbours of a column in pairs, and the pairs are neighbours of a row: a pair reads the same
// vec4s of B, and neighbouring pairs the same of A, so that a GPU may serve the equal reads of neighbours together.

const TILE_M: u32 = 64u;
const TILE_N: u32 = 128u;
const TILE_K: u32 = 8u;
const MICRO_M: u32 = 8u;
const MICRO_N: u32 = 8u;
const SHARES: u32 = 1u;

alias StoredA = f32;
alias StoredB = f32;

const ROWS: u32 = TILE_M / MICRO_M;
const COLUMNS: u32 = TILE_N / MICRO_N;
const PAIR: u32 = 2u - ROWS % 2u;
const INVOCATIONS: u32 = ROWS * COLUMNS * SHARES;

// A slab has a row of quads for each k. Invocations that store a column of it do so in different memory banks: rows have a
// vec4 more.
const A_PITCH: u32 = M_QUADS + A_ALONG_K;
const B_PITCH: u32 = N_QUADS + B_ALONG_K;
const B_SLAB: u32 = TILE_K * A_PITCH; // where B's begins
const SLAB: u32 = B_SLAB + TILE_K * B_PITCH;
var<workgroup> slabs: array<vec4<f32>, 2u * SLAB>;

fn store_a(slab: u32, k: u32, group: u32, quad: vec4<StoredA>) {
    slabs[slab * SLAB + k * A_PITCH + group] = quad;
}
fn store_b(slab: u32, k: u32, group: u32, quad: vec4<StoredB>) {
    slabs[slab * SLAB + B_SLAB + k * B_PITCH + group] = quad;
}

// The row of an invocation's sums.
alias Row = array<vec4<f32>, MICRO_N / 4u>;

// What the invocations that share row i have summed, always added up in the same order: of an invocation that writes the row,
// every SHARES-th. The others get their own part of it back.
fn total(part: Row, i: u32, share: u32, place: u32) -> Row {
    workgroupBarrier();
    for (var j = 0u; j < MICRO_N / 4u; j++) {
        slabs[(j * SHARES + share) * (ROWS * COLUMNS) + place] = part[j];
    }
    workgroupBarrier();
    var sum = part;
    if i % SHARES == share {
        for (var j = 0u; j < MICRO_N / 4u; j++) {
            sum[j] = slabs[j * SHARES * (ROWS * COLUMNS) + place];
            for (var other = 1u; other < SHARES; other++) {
                sum[j] += slabs[(j * SHARES + other) * (ROWS * COLUMNS) + place];
            }
        }
    }
    return sum;
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let tile = tile_of(workgroup, workgroups);
    var loader = loader_of(tile, invocation);

    let share = select(invocation / (ROWS * COLUMNS), 0u, SHARES == 1u);
    let place = invocation % (ROWS * COLUMNS);
    let row = place / (PAIR * COLUMNS) * PAIR + place % PAIR;
    let column = place / PAIR % COLUMNS;
    var sums: array<Row, MICRO_M>;
    let count = slab_count(tile);
    for (var index = 0u; index < count; index++) {
        // The barrier of the slab before lies between this store and the last reads of the same slab.
        let slab = index % 2u;
        store_slab(&loader, slab);
        // Before the barrier: compilers would move loads between products behind them.
        load_next(tile, &loader, index + 1u == count);
        workgroupBarrier();

        let a_from = slab * SLAB + row;
        let b_from = slab * SLAB + B_SLAB + column;
        for (var t = 0u; t < TILE_K / SHARES; t++) {
            let k = t * SHARES + share;
            var b_quads: Row;
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

    // Row by row in so many words: compilers do not unroll a loop with barriers, and sums that a variable indexes lie in
    // memory, not in registers.
    if SHARES > 1u {
        sums[0] = total(sums[0], 0u, share, place);
        sums[1] = total(sums[1], 1u, share, place);
        sums[2] = total(sums[2], 2u, share, place);
        sums[3] = total(sums[3], 3u, share, place);
        if MICRO_M > 4u {
            sums[MICRO_M - 4u] = total(sums[MICRO_M - 4u], MICRO_M - 4u, share, place);
            sums[MICRO_M - 3u] = total(sums[MICRO_M - 3u], MICRO_M - 3u, share, place);
            sums[MICRO_M - 2u] = total(sums[MICRO_M - 2u], MICRO_M - 2u, share, place);
            sums[MICRO_M - 1u] = total(sums[MICRO_M - 1u], MICRO_M - 1u, share, place);
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

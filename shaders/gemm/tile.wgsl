// gemm/tile: y(m,n) = Σ_k A(m,k) · B(k,n), the part that all kernels of matrix products and convolutions on GPUs share
//
// A workgroup owns a TILE_M × TILE_N tile of y and passes over the depth k in slabs of TILE_K. An invocation owns
// MICRO_M × MICRO_N elements of the tile. Where SHARES invocations own the same elements, each takes every SHARES-th k of a
// slab, and they add up their sums in the end. Two slabs lie in workgroup memory: one is multiplied while the next is
// on its way into registers, so that a slab takes one barrier, and the products cover the loads.
//
// A slab has a row of vec4s for each k. The four elements of vec4 q of a row are M_QUADS (N_QUADS) apart: q, M_QUADS + q and
// so on. Neighbouring invocations then load neighbours, store vec4s side by side, and write neighbours of y.
//
// Slabs fall into segments. From one slab of a segment to the next, all addresses grow by the same strides, and elements
// outside of A or B stay outside: where an element lies is computed once a segment.
//
// The file that includes this one says where elements lie:
//   a, b, y                 the buffers
//   A_ALONG_K, B_ALONG_K    1 where neighbours along k are neighbours in memory, 0 where those along m or n are
//   A_IS_WHOLE              whether no slab reaches beyond A
//   A_HEIGHT, A_WIDTH       of the plane that an element of A has to lie in
//   B_HEIGHT, B_WIDTH       the same of B
//   Tile, tile_of           the tile of a workgroup; m and n are its first row and column
//   slab_count              the slabs of a tile
//   segment_slabs           those of a segment; (0, 0) is the first segment
//   segment_after           the segment that follows
//   a_stride, b_stride      what each slab of a segment adds to addresses
//   a_row, b_column         what a row of A and a column of B add to the place of an element
//   depth_at                what index k of a segment's first slab adds to places in A and in B
//   y_row, y_column         the parts of an address in y, one of which may be NOWHERE: the element is not written

const TILE_M: u32 = 64u;
const TILE_N: u32 = 128u;
const TILE_K: u32 = 8u;
const MICRO_M: u32 = 8u;
const MICRO_N: u32 = 8u;
const SHARES: u32 = 1u;

// A part of an address, or of a row or column, that lies beyond all there are, and with any other part does so.
const NOWHERE: u32 = 0x40000000u;

const ROWS: u32 = TILE_M / MICRO_M;
const COLUMNS: u32 = TILE_N / MICRO_N;
const INVOCATIONS: u32 = ROWS * COLUMNS * SHARES; // a multiple of M_QUADS, of N_QUADS and of TILE_K
const M_QUADS: u32 = TILE_M / 4u;
const N_QUADS: u32 = TILE_N / 4u;

// Invocations that store a column of a slab do so in different memory banks: its rows have a vec4 more.
const A_PITCH: u32 = M_QUADS + A_ALONG_K;
const B_PITCH: u32 = N_QUADS + B_ALONG_K;
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

// A part of an element's address, and of its row and column in a plane, outside of which the element is 0. The sum of two
// parts is the whole; each may wrap round below 0.
struct Place {
    at: u32,
    h: u32,
    v: u32,
}
struct Depth {
    a: Place,
    b: Place,
}

// The addresses of four elements, and which of them are inside. The others are read at the buffer's beginning, in vain.
struct Quad {
    at: vec4<u32>,
    is_inside: vec4<bool>,
}

fn quad_of(places: array<Place, 4>, depth: Place, height: u32, width: u32) -> Quad {
    let at = vec4(places[0].at, places[1].at, places[2].at, places[3].at) + depth.at;
    let h = vec4(places[0].h, places[1].h, places[2].h, places[3].h) + depth.h;
    let v = vec4(places[0].v, places[1].v, places[2].v, places[3].v) + depth.v;
    let is_inside = (h < vec4(height)) & (v < vec4(width));
    return Quad(select(vec4<u32>(), at, is_inside), is_inside);
}

// What an invocation loads: where the first of its vec4s lies in a slab, the parts of addresses that do not change, those
// of the segment, and what is under way.
struct Loader {
    a_group: u32,
    a_k: u32,
    b_group: u32,
    b_k: u32,
    rows: array<array<Place, 4>, A_LOADS>,
    columns: array<array<Place, 4>, B_LOADS>,
    segment: vec2<u32>,
    slabs_left: u32, // of the segment
    a_offset: u32,
    b_offset: u32,
    a_quads: array<Quad, A_LOADS>,
    b_quads: array<Quad, B_LOADS>,
    a: array<vec4<f32>, A_LOADS>,
    b: array<vec4<f32>, B_LOADS>,
}

fn begin_segment(tile: Tile, loader: ptr<function, Loader>) {
    let segment = (*loader).segment;
    for (var l = 0u; l < A_LOADS; l++) {
        let depth = depth_at(tile, segment, (*loader).a_k + l * A_K_STEP).a;
        (*loader).a_quads[l] = quad_of((*loader).rows[l], depth, A_HEIGHT, A_WIDTH);
    }
    for (var l = 0u; l < B_LOADS; l++) {
        let depth = depth_at(tile, segment, (*loader).b_k + l * B_K_STEP).b;
        (*loader).b_quads[l] = quad_of((*loader).columns[l], depth, B_HEIGHT, B_WIDTH);
    }
    (*loader).a_offset = 0u;
    (*loader).b_offset = 0u;
    (*loader).slabs_left = segment_slabs(tile, segment);
    (*loader).segment = segment_after(tile, segment);
}

fn load_slab(loader: ptr<function, Loader>) {
    for (var l = 0u; l < A_LOADS; l++) {
        let at = (*loader).a_quads[l].at + (*loader).a_offset;
        (*loader).a[l] = vec4(a[at.x], a[at.y], a[at.z], a[at.w]);
    }
    for (var l = 0u; l < B_LOADS; l++) {
        let at = (*loader).b_quads[l].at + (*loader).b_offset;
        (*loader).b[l] = vec4(b[at.x], b[at.y], b[at.z], b[at.w]);
    }
}

// What is outside becomes 0 here and not before, so that nothing waits for a load until then.
fn store_slab(loader: ptr<function, Loader>, to: u32) {
    for (var l = 0u; l < A_LOADS; l++) {
        let group = (*loader).a_group + l * A_GROUP_STEP;
        let k = (*loader).a_k + l * A_K_STEP;
        if A_IS_EVEN || (k < TILE_K && group < M_QUADS) {
            let is_inside = (*loader).a_quads[l].is_inside | vec4(A_IS_WHOLE);
            slabs[to + k * A_PITCH + group] = select(vec4<f32>(), (*loader).a[l], is_inside);
        }
    }
    for (var l = 0u; l < B_LOADS; l++) {
        let group = (*loader).b_group + l * B_GROUP_STEP;
        let k = (*loader).b_k + l * B_K_STEP;
        if B_IS_EVEN || (k < TILE_K && group < N_QUADS) {
            slabs[to + B_SLAB + k * B_PITCH + group] = select(vec4<f32>(), (*loader).b[l], (*loader).b_quads[l].is_inside);
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let tile = tile_of(workgroup, workgroups);
    var loader: Loader;
    loader.a_group = select(invocation % M_QUADS, invocation / TILE_K, A_ALONG_K == 1u);
    loader.a_k = select(invocation / M_QUADS, invocation % TILE_K, A_ALONG_K == 1u);
    loader.b_group = select(invocation % N_QUADS, invocation / TILE_K, B_ALONG_K == 1u);
    loader.b_k = select(invocation / N_QUADS, invocation % TILE_K, B_ALONG_K == 1u);
    for (var l = 0u; l < A_LOADS; l++) {
        for (var e = 0u; e < 4u; e++) {
            loader.rows[l][e] = a_row(tile, tile.m + e * M_QUADS + loader.a_group + l * A_GROUP_STEP);
        }
    }
    for (var l = 0u; l < B_LOADS; l++) {
        for (var e = 0u; e < 4u; e++) {
            loader.columns[l][e] = b_column(tile, tile.n + e * N_QUADS + loader.b_group + l * B_GROUP_STEP);
        }
    }
    begin_segment(tile, &loader);
    load_slab(&loader);
    store_slab(&loader, 0u);
    workgroupBarrier();

    let share = select(invocation / (ROWS * COLUMNS), 0u, SHARES == 1u);
    let row = invocation / COLUMNS % ROWS;
    let column = invocation % COLUMNS;
    var sums: array<array<vec4<f32>, MICRO_N / 4u>, MICRO_M>;
    let count = slab_count(tile);
    for (var index = 0u; index < count; index++) {
        // The slab after this one. The last is loaded once more, in vain: a branch around the loads or the stores would have
        // compilers move the loads into it, behind the products.
        loader.slabs_left -= 1u;
        if loader.slabs_left > 0u {
            loader.a_offset += a_stride();
            loader.b_offset += b_stride();
        } else if index + 1u < count {
            begin_segment(tile, &loader);
        }
        load_slab(&loader);

        let a_from = index % 2u * SLAB + row;
        let b_from = index % 2u * SLAB + B_SLAB + column;
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

        // The other slab is read no more: the barrier of the slab before lies between.
        store_slab(&loader, (index + 1u) % 2u * SLAB);
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

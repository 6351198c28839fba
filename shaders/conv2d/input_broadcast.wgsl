// conv2d/input on CPU drivers: x̄[n,c,h,v] = Σ_{k,r,s} ȳ[n,k,p,q] · w[k,c,r,s]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// A workgroup is one SIMD vector: its lanes are CHANNEL_LANES input channels of each of LANES / CHANNEL_LANES images.
// Each lane owns MICRO_C channels of the same STRIDE·TILE_ROWS × STRIDE·TILE_COLUMNS pixels of x̄ in registers, and of
// TILES such tiles one after another. Inside of a loop these drivers load lane by lane, so that a load costs the same
// whether it brings one value to all lanes or one to each. The field of ȳ that reaches a tile, which the channel lanes
// have in common, is therefore loaded in runs, a pixel a lane, and handed out by shuffles. The taps, which several tiles
// have in common, are staged in workgroup memory, whose loads take half the code. A tile begins at multiples of STRIDE, so
// that which of its pixels meet which taps is known when unrolling. Workgroups (x, y) enumerate images and tiles of
// pixels, z blocks of channels, group after group.

const CHANNELS: u32 = 3u; // of one group
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u; // of one group
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;
const GROUPS: u32 = 1u;

const LANES: u32 = 8u;
const CHANNEL_LANES: u32 = 8u; // LANES or 1
const MICRO_C: u32 = 1u;
const TILE_ROWS: u32 = 8u; // at most 8
const TILE_COLUMNS: u32 = 8u;
const TILES: u32 = 16u; // 1 if the taps are not staged

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const ROW_TILES: u32 = (H + STRIDE * TILE_ROWS - 1u) / (STRIDE * TILE_ROWS);
const COLUMN_TILES: u32 = (W + STRIDE * TILE_COLUMNS - 1u) / (STRIDE * TILE_COLUMNS);
const IMAGES: u32 = LANES / CHANNEL_LANES;
const CHANNEL_BLOCKS: u32 = (CHANNELS + CHANNEL_LANES * MICRO_C - 1u) / (CHANNEL_LANES * MICRO_C);
// Row i of a tile and tap r meet in row (i + PADDING − r) / STRIDE of ȳ, counted from the tile's own. The first of them
// is so far above it, or below if negative; and so with columns.
const ROW_MARGIN: i32 = (i32(R + STRIDE) - 2 - i32(PADDING) + i32(PADDING * STRIDE)) / i32(STRIDE) - i32(PADDING);
const COLUMN_MARGIN: i32 = (i32(S + STRIDE) - 2 - i32(PADDING) + i32(PADDING * STRIDE)) / i32(STRIDE) - i32(PADDING);
const FIELD_ROWS: u32 = u32(i32((STRIDE * TILE_ROWS - 1u + PADDING) / STRIDE + 1u) + ROW_MARGIN);
const FIELD_COLUMNS: u32 = u32(i32((STRIDE * TILE_COLUMNS - 1u + PADDING) / STRIDE + 1u) + COLUMN_MARGIN);
const FIELD: u32 = FIELD_ROWS * FIELD_COLUMNS;
const RUNS: u32 = (FIELD + CHANNEL_LANES - 1u) / CHANNEL_LANES;
const RESULTS: u32 = STRIDE * TILE_ROWS * STRIDE * TILE_COLUMNS * MICRO_C;

alias Tile = array<array<array<f32, MICRO_C>, STRIDE * TILE_COLUMNS>, STRIDE * TILE_ROWS>;
alias Field = array<array<f32, FIELD_COLUMNS>, FIELD_ROWS>;
alias Taps = array<array<array<f32, MICRO_C>, S>, R>;

const FILTER: u32 = K * R * S;
var<workgroup> filters: array<f32, select(1u, MICRO_C * FILTER * LANES, TILES > 1u)>; // [MICRO_C, K, R, S, LANES]

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> ct_y: array<f32>; // [N, GROUPS·K, P, Q]
@group(0) @binding(1) var<storage, read> w: array<f32>; // [GROUPS·K, C, R, S]
@group(0) @binding(2) var<storage, read_write> ct_x: array<f32>; // [N, GROUPS·C, H, W]

/// What rows i · STRIDE to i · STRIDE + STRIDE − 1 of the tile gain: a function, since larger bodies than this are not
/// unrolled.
fn add_rows(sums: ptr<function, Tile>, field: ptr<function, Field>, taps: ptr<function, Taps>, i: u32) {
    for (var j = 0u; j < TILE_COLUMNS; j++) {
        // Down and to the right in the field: the last tap meets its first pixel.
        for (var u = 0u; u < R; u++) {
            let r = R - 1u - u;
            // The first row of the tile that meets r, and where.
            let i_0 = (r + PADDING * (STRIDE - 1u)) % STRIDE;
            let p_0 = (i_0 + PADDING - r + u32(ROW_MARGIN * i32(STRIDE))) / STRIDE;
            for (var v = 0u; v < S; v++) {
                let s = S - 1u - v;
                let j_0 = (s + PADDING * (STRIDE - 1u)) % STRIDE;
                let q_0 = (j_0 + PADDING - s + u32(COLUMN_MARGIN * i32(STRIDE))) / STRIDE;
                let value = (*field)[p_0 + i][q_0 + j];
                for (var m = 0u; m < MICRO_C; m++) {
                    let sum = (*sums)[i * STRIDE + i_0][j * STRIDE + j_0][m];
                    (*sums)[i * STRIDE + i_0][j * STRIDE + j_0][m] = fma(value, (*taps)[r][s][m], sum);
                }
            }
        }
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let group = workgroup.z / CHANNEL_BLOCKS;
    let channel_0 = workgroup.z % CHANNEL_BLOCKS * (CHANNEL_LANES * MICRO_C) + lane % CHANNEL_LANES;
    // Surplus lanes repeat the work of the last image or channel: a branch would cost all lanes more.
    var c: array<u32, MICRO_C>;
    for (var m = 0u; m < MICRO_C; m++) {
        c[m] = min(channel_0 + m * CHANNEL_LANES, CHANNELS - 1u);
    }
    if TILES > 1u {
        for (var m = 0u; m < MICRO_C; m++) {
            for (var f = 0u; f < FILTER; f++) {
                filters[(m * FILTER + f) * LANES + lane] = w[((group * K + f / (R * S)) * CHANNELS + c[m]) * (R * S) + f % (R * S)];
            }
        }
    }

    let tiles = (extents.n + IMAGES - 1u) / IMAGES * (ROW_TILES * COLUMN_TILES);
    let tile_0 = (workgroup.y * workgroups.x + workgroup.x) * TILES;
    for (var tile = tile_0; tile < min(tile_0 + TILES, tiles); tile++) {
        let image = tile / (ROW_TILES * COLUMN_TILES) * IMAGES + lane / CHANNEL_LANES % IMAGES;
        let p_0 = tile / COLUMN_TILES % ROW_TILES * TILE_ROWS;
        let q_0 = tile % COLUMN_TILES * TILE_COLUMNS;
        let ct_y_0 = (min(image, extents.n - 1u) * GROUPS + group) * (K * P * Q);

        // Pixel t · CHANNEL_LANES + l of the field is the t-th of lane l. Those outside of ȳ have no bits to keep, which
        // takes less than a select.
        var at: array<u32, RUNS>;
        var kept: array<u32, RUNS>;
        for (var t = 0u; t < RUNS; t++) {
            let f = t * CHANNEL_LANES + subgroup_lane % CHANNEL_LANES;
            let p = p_0 + f / FIELD_COLUMNS - u32(ROW_MARGIN); // wraps round above P where negative
            let q = q_0 + f % FIELD_COLUMNS - u32(COLUMN_MARGIN);
            at[t] = ct_y_0 + min(p, P - 1u) * Q + min(q, Q - 1u);
            kept[t] = select(0u, 0xffffffffu, p < P && q < Q);
        }

        var sums = Tile();
        for (var k = 0u; k < K; k++) {
            var taps: Taps;
            for (var r = 0u; r < R; r++) {
                for (var s = 0u; s < S; s++) {
                    for (var m = 0u; m < MICRO_C; m++) {
                        if TILES > 1u {
                            taps[r][s][m] = filters[(m * FILTER + (k * R + r) * S + s) * LANES + lane];
                        } else {
                            taps[r][s][m] = w[(((group * K + k) * CHANNELS + c[m]) * R + r) * S + s];
                        }
                    }
                }
            }
            var pixels: array<f32, RUNS>;
            for (var t = 0u; t < RUNS; t++) {
                pixels[t] = bitcast<f32>(bitcast<u32>(ct_y[at[t] + k * (P * Q)]) & kept[t]);
            }
            var field: Field;
            for (var i = 0u; i < FIELD_ROWS; i++) {
                for (var j = 0u; j < FIELD_COLUMNS; j++) {
                    let f = i * FIELD_COLUMNS + j;
                    if CHANNEL_LANES == 1u {
                        field[i][j] = pixels[f];
                    } else {
                        field[i][j] = subgroupShuffle(pixels[f / CHANNEL_LANES], f % CHANNEL_LANES);
                    }
                }
            }
            add_rows(&sums, &field, &taps, 0u);
            if TILE_ROWS > 1u {
                add_rows(&sums, &field, &taps, 1u);
            }
            if TILE_ROWS > 2u {
                add_rows(&sums, &field, &taps, 2u);
            }
            if TILE_ROWS > 3u {
                add_rows(&sums, &field, &taps, 3u);
            }
            if TILE_ROWS > 4u {
                add_rows(&sums, &field, &taps, 4u);
            }
            if TILE_ROWS > 5u {
                add_rows(&sums, &field, &taps, 5u);
            }
            if TILE_ROWS > 6u {
                add_rows(&sums, &field, &taps, 6u);
            }
            if TILE_ROWS > 7u {
                add_rows(&sums, &field, &taps, 7u);
            }
        }

        // Each store is unrolled into eight branches, so that a loop of them is smaller, faster and sooner compiled.
        var results: array<f32, RESULTS>;
        for (var i = 0u; i < STRIDE * TILE_ROWS; i++) {
            for (var j = 0u; j < STRIDE * TILE_COLUMNS; j++) {
                for (var m = 0u; m < MICRO_C; m++) {
                    results[(i * STRIDE * TILE_COLUMNS + j) * MICRO_C + m] = sums[i][j][m];
                }
            }
        }
        for (var t = 0u; t < RESULTS; t++) {
            let c = channel_0 + t % MICRO_C * CHANNEL_LANES;
            let h = p_0 * STRIDE + t / (MICRO_C * STRIDE * TILE_COLUMNS);
            let v = q_0 * STRIDE + t / MICRO_C % (STRIDE * TILE_COLUMNS);
            if image < extents.n && c < CHANNELS && h < H && v < W {
                ct_x[(((image * GROUPS + group) * CHANNELS + c) * H + h) * W + v] = results[t];
            }
        }
    }
}

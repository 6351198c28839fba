// conv2d/output on CPU drivers: y[n,k,p,q] = Σ_{c,r,s} x[n,c,h,v] · w[k,c,r,s]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// A workgroup is one SIMD vector: its lanes are CHANNEL_LANES output channels of each of LANES / CHANNEL_LANES images.
// Each lane owns MICRO_K channels of the same TILE_ROWS × TILE_COLUMNS pixels of y in registers, and of TILES such tiles
// one after another. Inside of a loop these drivers load lane by lane, so that a load costs the same whether it brings
// one value to all lanes or one to each. The receptive field of a tile, which the channel lanes have in common, is
// therefore loaded in runs, a pixel a lane, and handed out by shuffles. The taps, which several tiles have in common, are
// staged in workgroup memory, whose loads take half the code. Workgroups (x, y) enumerate images and tiles of pixels, z
// blocks of channels, group after group.

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
const MICRO_K: u32 = 1u;
const TILE_ROWS: u32 = 8u; // at most 8
const TILE_COLUMNS: u32 = 8u;
const TILES: u32 = 16u; // 1 if the taps are not staged

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const ROW_TILES: u32 = (P + TILE_ROWS - 1u) / TILE_ROWS;
const COLUMN_TILES: u32 = (Q + TILE_COLUMNS - 1u) / TILE_COLUMNS;
const IMAGES: u32 = LANES / CHANNEL_LANES;
const CHANNEL_BLOCKS: u32 = (K + CHANNEL_LANES * MICRO_K - 1u) / (CHANNEL_LANES * MICRO_K);
// The receptive field, without the rows and columns that lie between two windows.
const ROW_STEP: u32 = min(R, STRIDE);
const COLUMN_STEP: u32 = min(S, STRIDE);
const FIELD_ROWS: u32 = (TILE_ROWS - 1u) * ROW_STEP + R;
const FIELD_COLUMNS: u32 = (TILE_COLUMNS - 1u) * COLUMN_STEP + S;
const FIELD: u32 = FIELD_ROWS * FIELD_COLUMNS;
const RUNS: u32 = (FIELD + CHANNEL_LANES - 1u) / CHANNEL_LANES;
const RESULTS: u32 = TILE_ROWS * TILE_COLUMNS * MICRO_K;

alias Tile = array<array<array<f32, MICRO_K>, TILE_COLUMNS>, TILE_ROWS>;
alias Field = array<array<f32, FIELD_COLUMNS>, FIELD_ROWS>;
alias Taps = array<array<array<f32, MICRO_K>, S>, R>;

const FILTER: u32 = CHANNELS * R * S;
var<workgroup> filters: array<f32, select(1u, MICRO_K * FILTER * LANES, TILES > 1u)>; // [MICRO_K, C, R, S, LANES]

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [N, GROUPS·C, H, W]
@group(0) @binding(1) var<storage, read> w: array<f32>; // [GROUPS·K, C, R, S]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [N, GROUPS·K, P, Q]

/// What row i of the tile gains: a function, since larger bodies than this are not unrolled.
fn add_row(sums: ptr<function, Tile>, field: ptr<function, Field>, taps: ptr<function, Taps>, i: u32) {
    for (var j = 0u; j < TILE_COLUMNS; j++) {
        for (var r = 0u; r < R; r++) {
            for (var s = 0u; s < S; s++) {
                let value = (*field)[i * ROW_STEP + r][j * COLUMN_STEP + s];
                for (var m = 0u; m < MICRO_K; m++) {
                    (*sums)[i][j][m] = fma(value, (*taps)[r][s][m], (*sums)[i][j][m]);
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
    let channel_0 = workgroup.z % CHANNEL_BLOCKS * (CHANNEL_LANES * MICRO_K) + lane % CHANNEL_LANES;
    // Surplus lanes repeat the work of the last image or channel: a branch would cost all lanes more.
    var k: array<u32, MICRO_K>;
    for (var m = 0u; m < MICRO_K; m++) {
        k[m] = min(channel_0 + m * CHANNEL_LANES, K - 1u);
    }
    if TILES > 1u {
        for (var m = 0u; m < MICRO_K; m++) {
            for (var f = 0u; f < FILTER; f++) {
                filters[(m * FILTER + f) * LANES + lane] = w[(group * K + k[m]) * FILTER + f];
            }
        }
    }

    let tiles = (extents.n + IMAGES - 1u) / IMAGES * (ROW_TILES * COLUMN_TILES);
    let tile_0 = (workgroup.y * workgroups.x + workgroup.x) * TILES;
    for (var tile = tile_0; tile < min(tile_0 + TILES, tiles); tile++) {
        let image = tile / (ROW_TILES * COLUMN_TILES) * IMAGES + lane / CHANNEL_LANES % IMAGES;
        let p_0 = tile / COLUMN_TILES % ROW_TILES * TILE_ROWS;
        let q_0 = tile % COLUMN_TILES * TILE_COLUMNS;
        let x_0 = (min(image, extents.n - 1u) * GROUPS + group) * (CHANNELS * H * W);

        // Pixel t · CHANNEL_LANES + l of the field is the t-th of lane l. Those outside of the image have no bits to keep,
        // which takes less than a select.
        var at: array<u32, RUNS>;
        var kept: array<u32, RUNS>;
        for (var t = 0u; t < RUNS; t++) {
            let f = t * CHANNEL_LANES + subgroup_lane % CHANNEL_LANES;
            let row = f / FIELD_COLUMNS;
            let column = f % FIELD_COLUMNS;
            let h = p_0 * STRIDE + row / ROW_STEP * STRIDE + row % ROW_STEP - PADDING; // wraps round above H where negative
            let v = q_0 * STRIDE + column / COLUMN_STEP * STRIDE + column % COLUMN_STEP - PADDING;
            at[t] = x_0 + min(h, H - 1u) * W + min(v, W - 1u);
            kept[t] = select(0u, 0xffffffffu, h < H && v < W);
        }

        var sums = Tile();
        for (var c = 0u; c < CHANNELS; c++) {
            var taps: Taps;
            for (var r = 0u; r < R; r++) {
                for (var s = 0u; s < S; s++) {
                    for (var m = 0u; m < MICRO_K; m++) {
                        if TILES > 1u {
                            taps[r][s][m] = filters[(m * FILTER + (c * R + r) * S + s) * LANES + lane];
                        } else {
                            taps[r][s][m] = w[(((group * K + k[m]) * CHANNELS + c) * R + r) * S + s];
                        }
                    }
                }
            }
            var pixels: array<f32, RUNS>;
            for (var t = 0u; t < RUNS; t++) {
                pixels[t] = bitcast<f32>(bitcast<u32>(x[at[t] + c * (H * W)]) & kept[t]);
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
            add_row(&sums, &field, &taps, 0u);
            if TILE_ROWS > 1u {
                add_row(&sums, &field, &taps, 1u);
            }
            if TILE_ROWS > 2u {
                add_row(&sums, &field, &taps, 2u);
            }
            if TILE_ROWS > 3u {
                add_row(&sums, &field, &taps, 3u);
            }
            if TILE_ROWS > 4u {
                add_row(&sums, &field, &taps, 4u);
            }
            if TILE_ROWS > 5u {
                add_row(&sums, &field, &taps, 5u);
            }
            if TILE_ROWS > 6u {
                add_row(&sums, &field, &taps, 6u);
            }
            if TILE_ROWS > 7u {
                add_row(&sums, &field, &taps, 7u);
            }
        }

        // Each store is unrolled into eight branches, so that a loop of them is smaller, faster and sooner compiled.
        var results: array<f32, RESULTS>;
        for (var i = 0u; i < TILE_ROWS; i++) {
            for (var j = 0u; j < TILE_COLUMNS; j++) {
                for (var m = 0u; m < MICRO_K; m++) {
                    results[(i * TILE_COLUMNS + j) * MICRO_K + m] = sums[i][j][m];
                }
            }
        }
        for (var t = 0u; t < RESULTS; t++) {
            let k = channel_0 + t % MICRO_K * CHANNEL_LANES;
            let p = p_0 + t / (MICRO_K * TILE_COLUMNS);
            let q = q_0 + t / MICRO_K % TILE_COLUMNS;
            if image < extents.n && k < K && p < P && q < Q {
                y[(((image * GROUPS + group) * K + k) * P + p) * Q + q] = results[t];
            }
        }
    }
}

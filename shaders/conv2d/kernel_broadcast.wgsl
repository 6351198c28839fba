// conv2d/kernel on CPU drivers: w̄[k,c,r,s] = Σ_{n,p,q} x[n,c,h,v] · ȳ[n,k,p,q]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// A workgroup is one SIMD vector. Each lane owns MICRO_K output channels, LANES apart, and the windows of MICRO_C input
// channels in registers, and sums over tiles of TILE_ROWS × TILE_COLUMNS pixels of ȳ, down one strip of tiles after
// another. Inside of a loop these drivers load lane by lane, so that a load costs the same whether it brings one value to
// all lanes or one to each. Each row of a tile's receptive field, which the lanes have in common, is therefore loaded in
// runs, a pixel a lane, and handed out by shuffles; rows that tiles of a strip share are loaded once. Each image is summed
// apart and then added: two short sums round less than one of n·P·Q terms. Workgroups x enumerate input channels, y
// output channels, group after group.

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
const MICRO_K: u32 = 2u;
const MICRO_C: u32 = 1u; // at most 8
const TILE_ROWS: u32 = 4u;
const TILE_COLUMNS: u32 = 8u;
const WIDTH: u32 = 1u; // pixels in a V; divides Q and TILE_COLUMNS

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const K_BLOCKS: u32 = (K + LANES * MICRO_K - 1u) / (LANES * MICRO_K);
// The receptive field, without the rows and columns that lie between two windows.
const ROW_STEP: u32 = min(R, STRIDE);
const COLUMN_STEP: u32 = min(S, STRIDE);
const FIELD_ROWS: u32 = (TILE_ROWS - 1u) * ROW_STEP + R;
const FIELD_COLUMNS: u32 = (TILE_COLUMNS - 1u) * COLUMN_STEP + S;
// Tiles of a strip share KEPT_ROWS of their fields: each loads but the NEW_ROWS below them.
const KEPT_ROWS: u32 = R - ROW_STEP;
const NEW_ROWS: u32 = TILE_ROWS * ROW_STEP;
const RUNS: u32 = (MICRO_C * FIELD_COLUMNS + LANES - 1u) / LANES; // of a row
const RESULTS: u32 = R * S * MICRO_C * MICRO_K;

alias Windows = array<array<array<array<f32, MICRO_K>, MICRO_C>, S>, R>;
alias V = f32; // or vec4<f32>
alias Tile = array<array<array<V, MICRO_K>, TILE_COLUMNS / WIDTH>, TILE_ROWS>;
alias Rows = array<array<f32, RUNS>, FIELD_ROWS>;
alias Field = array<array<array<f32, FIELD_COLUMNS>, FIELD_ROWS>, MICRO_C>;

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [N, GROUPS·C, H, W]
@group(0) @binding(1) var<storage, read> ct_y: array<V>; // [N, GROUPS·K, P, Q]
@group(0) @binding(2) var<storage, read_write> ct_w: array<f32>; // [GROUPS·K, C, R, S]

/// What a tile adds to the windows of channel c: a function, since larger bodies than this are not unrolled.
fn add_channel(sums: ptr<function, Windows>, field: ptr<function, Field>, ct_y_tile: ptr<function, Tile>, c: u32) {
    for (var r = 0u; r < R; r++) {
        for (var s = 0u; s < S; s++) {
            for (var m = 0u; m < MICRO_K; m++) {
                for (var i = 0u; i < TILE_ROWS; i++) {
                    for (var j = 0u; j < TILE_COLUMNS; j++) {
                        let value = (*field)[c][i * ROW_STEP + r][j * COLUMN_STEP + s];
                        let ct_y_value = vec4<f32>((*ct_y_tile)[i][j / WIDTH][m])[j % WIDTH];
                        (*sums)[r][s][c][m] = fma(value, ct_y_value, (*sums)[r][s][c][m]);
                    }
                }
            }
        }
    }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let c_0 = workgroup.x * MICRO_C;
    let group = workgroup.y / K_BLOCKS;
    let k_0 = workgroup.y % K_BLOCKS * (LANES * MICRO_K) + lane;

    var sums: Windows;
    for (var image = 0u; image < extents.n; image++) {
        let x_0 = (image * GROUPS + group) * (CHANNELS * H * W);
        let ct_y_0 = (image * GROUPS + group) * (K * P * Q);
        var image_sums = Windows();
        for (var q_0 = 0u; q_0 < Q; q_0 += TILE_COLUMNS) {
            // Pixel t · LANES + l of a row of the field is the t-th of lane l. Where they lie in the image, but for the row:
            var at: array<u32, RUNS>;
            var is_column: array<bool, RUNS>;
            for (var t = 0u; t < RUNS; t++) {
                let f = t * LANES + subgroup_lane;
                let c = min(c_0 + f / FIELD_COLUMNS, CHANNELS - 1u);
                let j = f % FIELD_COLUMNS;
                let v = q_0 * STRIDE + j / COLUMN_STEP * STRIDE + j % COLUMN_STEP - PADDING;
                at[t] = x_0 + c * (H * W) + min(v, W - 1u);
                is_column[t] = v < W;
            }
            var rows: Rows;
            for (var i = 0u; i < KEPT_ROWS; i++) {
                let h = i - PADDING; // wraps round above H where negative
                for (var t = 0u; t < RUNS; t++) {
                    rows[NEW_ROWS + i][t] = select(0.0, x[at[t] + min(h, H - 1u) * W], h < H && is_column[t]);
                }
            }
            for (var p_0 = 0u; p_0 < P; p_0 += TILE_ROWS) {
                // Surplus lanes repeat the work of the last channel: a branch would cost all lanes more.
                var ct_y_tile: Tile;
                for (var i = 0u; i < TILE_ROWS; i++) {
                    for (var j = 0u; j < TILE_COLUMNS / WIDTH; j++) {
                        for (var m = 0u; m < MICRO_K; m++) {
                            let k = min(k_0 + m * LANES, K - 1u);
                            let p = p_0 + i;
                            let q = q_0 + j * WIDTH;
                            let at = ct_y_0 + (k * P + min(p, P - 1u)) * Q + min(q, Q - WIDTH);
                            ct_y_tile[i][j][m] = select(V(), ct_y[at / WIDTH], p < P && q < Q);
                        }
                    }
                }
                for (var t = 0u; t < RUNS; t++) {
                    for (var i = 0u; i < KEPT_ROWS; i++) {
                        rows[i][t] = rows[NEW_ROWS + i][t];
                    }
                    for (var i = KEPT_ROWS; i < FIELD_ROWS; i++) {
                        let h = p_0 * STRIDE + i / ROW_STEP * STRIDE + i % ROW_STEP - PADDING;
                        rows[i][t] = select(0.0, x[at[t] + min(h, H - 1u) * W], h < H && is_column[t]);
                    }
                }
                var field: Field;
                for (var c = 0u; c < MICRO_C; c++) {
                    for (var i = 0u; i < FIELD_ROWS; i++) {
                        for (var j = 0u; j < FIELD_COLUMNS; j++) {
                            let f = c * FIELD_COLUMNS + j;
                            field[c][i][j] = subgroupShuffle(rows[i][f / LANES], f % LANES);
                        }
                    }
                }
                add_channel(&image_sums, &field, &ct_y_tile, 0u);
                if MICRO_C > 1u {
                    add_channel(&image_sums, &field, &ct_y_tile, 1u);
                }
                if MICRO_C > 2u {
                    add_channel(&image_sums, &field, &ct_y_tile, 2u);
                }
                if MICRO_C > 3u {
                    add_channel(&image_sums, &field, &ct_y_tile, 3u);
                }
                if MICRO_C > 4u {
                    add_channel(&image_sums, &field, &ct_y_tile, 4u);
                }
                if MICRO_C > 5u {
                    add_channel(&image_sums, &field, &ct_y_tile, 5u);
                }
                if MICRO_C > 6u {
                    add_channel(&image_sums, &field, &ct_y_tile, 6u);
                }
                if MICRO_C > 7u {
                    add_channel(&image_sums, &field, &ct_y_tile, 7u);
                }
            }
        }
        for (var r = 0u; r < R; r++) {
            for (var s = 0u; s < S; s++) {
                for (var c = 0u; c < MICRO_C; c++) {
                    for (var m = 0u; m < MICRO_K; m++) {
                        sums[r][s][c][m] += image_sums[r][s][c][m];
                    }
                }
            }
        }
    }

    // Each store is unrolled into eight branches, so that a loop of them is smaller, faster and sooner compiled.
    var results: array<f32, RESULTS>;
    for (var r = 0u; r < R; r++) {
        for (var s = 0u; s < S; s++) {
            for (var c = 0u; c < MICRO_C; c++) {
                for (var m = 0u; m < MICRO_K; m++) {
                    results[((r * S + s) * MICRO_C + c) * MICRO_K + m] = sums[r][s][c][m];
                }
            }
        }
    }
    for (var t = 0u; t < RESULTS; t++) {
        let k = k_0 + t % MICRO_K * LANES;
        let c = c_0 + t / MICRO_K % MICRO_C;
        let tap = t / (MICRO_K * MICRO_C);
        if k < K && c < CHANNELS {
            ct_w[((group * K + k) * CHANNELS + c) * (R * S) + tap] = results[t];
        }
    }
}

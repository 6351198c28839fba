// conv2d/output on CPU drivers: y[n,k,p,q] = Σ_{c,r,s} x[n,c,h,v] · w[k,c,r,s]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// A workgroup is one SIMD vector: its lanes are CHANNEL_LANES output channels of each of LANES / CHANNEL_LANES images.
// Each lane owns MICRO_K channels of the same TILE_ROWS × TILE_COLUMNS pixels of y in registers, where a value of
// x serves all those channels and a value of w all those pixels. The operand that lanes have in common is indexed by
// workgroup_id and loop counters alone: a scalar load and a broadcast, where the driver sees it.
// Workgroups (x, y) enumerate images and tiles of pixels, z blocks of channels, group after group.

const C: u32 = 3u; // of one group
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u; // of one group
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;
const GROUPS: u32 = 1u;

const LANES: u32 = 8u;
const CHANNEL_LANES: u32 = 8u; // divides LANES
const MICRO_K: u32 = 4u;
const TILE_ROWS: u32 = 2u;
const TILE_COLUMNS: u32 = 8u;

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const ROW_TILES: u32 = (P + TILE_ROWS - 1u) / TILE_ROWS;
const COLUMN_TILES: u32 = (Q + TILE_COLUMNS - 1u) / TILE_COLUMNS;
const IMAGES: u32 = LANES / CHANNEL_LANES;
const CHANNEL_BLOCKS: u32 = (K + CHANNEL_LANES * MICRO_K - 1u) / (CHANNEL_LANES * MICRO_K);
// The part of an image row that meets the window from a tile of y.
const X_COLUMNS: u32 = (TILE_COLUMNS - 1u) * STRIDE + S;

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [N, GROUPS·C, H, W]
@group(0) @binding(1) var<storage, read> w: array<f32>; // [GROUPS·K, C, R, S]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [N, GROUPS·K, P, Q]

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let image = tile / (ROW_TILES * COLUMN_TILES) * IMAGES + lane / CHANNEL_LANES % IMAGES;
    let group = workgroup.z / CHANNEL_BLOCKS;
    let channel_0 = workgroup.z % CHANNEL_BLOCKS * (CHANNEL_LANES * MICRO_K) + lane % CHANNEL_LANES;
    let p_0 = tile / COLUMN_TILES % ROW_TILES * TILE_ROWS;
    let q_0 = tile % COLUMN_TILES * TILE_COLUMNS;
    // Surplus lanes repeat the work of the last image or channel: a branch would cost all lanes more.
    let x_0 = (min(image, extents.n - 1u) * GROUPS + group) * (C * H * W);

    var sums: array<array<array<f32, MICRO_K>, TILE_COLUMNS>, TILE_ROWS>;
    for (var c = 0u; c < C; c++) {
        for (var r = 0u; r < R; r++) {
            var taps: array<array<f32, MICRO_K>, S>;
            for (var s = 0u; s < S; s++) {
                for (var m = 0u; m < MICRO_K; m++) {
                    let k = min(channel_0 + m * CHANNEL_LANES, K - 1u);
                    taps[s][m] = w[(((group * K + k) * C + c) * R + r) * S + s];
                }
            }
            for (var i = 0u; i < TILE_ROWS; i++) {
                let h = (p_0 + i) * STRIDE + r - PADDING; // wraps round above H where negative
                var x_row: array<f32, X_COLUMNS>;
                for (var j = 0u; j < X_COLUMNS; j++) {
                    let v = q_0 * STRIDE + j - PADDING;
                    let value = x[x_0 + (c * H + min(h, H - 1u)) * W + min(v, W - 1u)];
                    x_row[j] = select(0.0, value, h < H && v < W);
                }
                for (var j = 0u; j < TILE_COLUMNS; j++) {
                    for (var s = 0u; s < S; s++) {
                        for (var m = 0u; m < MICRO_K; m++) {
                            sums[i][j][m] = fma(x_row[j * STRIDE + s], taps[s][m], sums[i][j][m]);
                        }
                    }
                }
            }
        }
    }

    for (var i = 0u; i < TILE_ROWS; i++) {
        for (var j = 0u; j < TILE_COLUMNS; j++) {
            for (var m = 0u; m < MICRO_K; m++) {
                let k = channel_0 + m * CHANNEL_LANES;
                if image < extents.n && k < K && p_0 + i < P && q_0 + j < Q {
                    y[(((image * GROUPS + group) * K + k) * P + p_0 + i) * Q + q_0 + j] = sums[i][j][m];
                }
            }
        }
    }
}

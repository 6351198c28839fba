// conv2d/input on CPU drivers: x̄[n,c,h,v] = Σ_{k,r,s} ȳ[n,k,p,q] · w[k,c,r,s]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// A workgroup is one SIMD vector: its lanes are CHANNEL_LANES input channels of each of LANES / CHANNEL_LANES images.
// Each lane owns MICRO_C channels of the same TILE_ROWS × TILE_COLUMNS pixels of x̄ in registers, where a value of
// ȳ serves all those channels and a value of w all those pixels. The operand that lanes have in common is indexed by
// workgroup_id and loop counters alone: a scalar load and a broadcast, where the driver sees it.
// The rows of a tile lie STRIDE apart, so that they meet the same taps r; its columns are neighbours that begin at a
// multiple of STRIDE, so that which of them meet which taps s is known when unrolling. Workgroups (x, y) enumerate
// images and tiles of pixels, z blocks of channels, group after group.

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
const MICRO_C: u32 = 4u;
const TILE_ROWS: u32 = 2u;
const TILE_COLUMNS: u32 = 8u; // a multiple of STRIDE

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const ROW_TILES: u32 = (H + STRIDE * TILE_ROWS - 1u) / (STRIDE * TILE_ROWS) * STRIDE;
const COLUMN_TILES: u32 = (W + TILE_COLUMNS - 1u) / TILE_COLUMNS;
const IMAGES: u32 = LANES / CHANNEL_LANES;
const CHANNEL_BLOCKS: u32 = (C + CHANNEL_LANES * MICRO_C - 1u) / (CHANNEL_LANES * MICRO_C);
// Column j of a tile and tap s meet in column (j + PADDING − s) / STRIDE of ȳ, counted from the tile's own. The first
// of them is MARGIN to the left of it, or to the right if negative.
const MARGIN: i32 = (i32(S + STRIDE) - 2 - i32(PADDING) + i32(PADDING * STRIDE)) / i32(STRIDE) - i32(PADDING);
const CT_Y_COLUMNS: u32 = u32(i32((TILE_COLUMNS - 1u + PADDING) / STRIDE + 1u) + MARGIN);

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> ct_y: array<f32>; // [N, GROUPS·K, P, Q]
@group(0) @binding(1) var<storage, read> w: array<f32>; // [GROUPS·K, C, R, S]
@group(0) @binding(2) var<storage, read_write> ct_x: array<f32>; // [N, GROUPS·C, H, W]

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let image = tile / (ROW_TILES * COLUMN_TILES) * IMAGES + lane / CHANNEL_LANES % IMAGES;
    let group = workgroup.z / CHANNEL_BLOCKS;
    let channel_0 = workgroup.z % CHANNEL_BLOCKS * (CHANNEL_LANES * MICRO_C) + lane % CHANNEL_LANES;
    let row_tile = tile / COLUMN_TILES % ROW_TILES;
    let h_0 = row_tile / STRIDE * (STRIDE * TILE_ROWS) + row_tile % STRIDE;
    let v_0 = tile % COLUMN_TILES * TILE_COLUMNS;
    // Surplus lanes repeat the work of the last image or channel: a branch would cost all lanes more.
    let ct_y_0 = (min(image, extents.n - 1u) * GROUPS + group) * (K * P * Q);

    var sums: array<array<array<f32, MICRO_C>, TILE_COLUMNS>, TILE_ROWS>;
    for (var k = 0u; k < K; k++) {
        for (var r = (h_0 + PADDING) % STRIDE; r < R; r += STRIDE) {
            var taps: array<array<f32, MICRO_C>, S>;
            for (var s = 0u; s < S; s++) {
                for (var m = 0u; m < MICRO_C; m++) {
                    let c = min(channel_0 + m * CHANNEL_LANES, C - 1u);
                    taps[s][m] = w[(((group * K + k) * C + c) * R + r) * S + s];
                }
            }
            for (var i = 0u; i < TILE_ROWS; i++) {
                let p = (h_0 + i * STRIDE + PADDING - r) / STRIDE; // wraps round above P where negative
                var ct_y_row: array<f32, CT_Y_COLUMNS>;
                for (var j = 0u; j < CT_Y_COLUMNS; j++) {
                    let q = v_0 / STRIDE + j - u32(MARGIN);
                    let value = ct_y[ct_y_0 + (k * P + min(p, P - 1u)) * Q + min(q, Q - 1u)];
                    ct_y_row[j] = select(0.0, value, p < P && q < Q);
                }
                for (var j = 0u; j < TILE_COLUMNS; j++) {
                    for (var s = 0u; s < S; s++) {
                        let v = j + PADDING - s + u32(MARGIN * i32(STRIDE));
                        if v % STRIDE == 0u {
                            for (var m = 0u; m < MICRO_C; m++) {
                                sums[i][j][m] = fma(ct_y_row[v / STRIDE], taps[s][m], sums[i][j][m]);
                            }
                        }
                    }
                }
            }
        }
    }

    for (var i = 0u; i < TILE_ROWS; i++) {
        let h = h_0 + i * STRIDE;
        for (var j = 0u; j < TILE_COLUMNS; j++) {
            for (var m = 0u; m < MICRO_C; m++) {
                let c = channel_0 + m * CHANNEL_LANES;
                if image < extents.n && c < C && h < H && v_0 + j < W {
                    ct_x[(((image * GROUPS + group) * C + c) * H + h) * W + v_0 + j] = sums[i][j][m];
                }
            }
        }
    }
}

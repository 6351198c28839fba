// conv2d/input on CPU drivers: x̄[n,c,h,v] = Σ_{k,r,s} ȳ[n,k,p,q] · w[k,c,r,s]
//     where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// A workgroup is one SIMD vector: its lanes are CHANNEL_LANES input channels of each of LANES / CHANNEL_LANES images.
// Each lane owns the same TILE_ROWS × TILE_COLUMNS pixels of x̄ in registers. With one image a workgroup, ȳ is indexed
// by workgroup_id alone, so that a scalar load and a broadcast serve all lanes, and a load of w serves a whole tile of
// pixels. Tiles begin at multiples of STRIDE, so that which taps meet which pixels of a tile is known when unrolling.
// Workgroups (x, y) enumerate images and tiles of pixels, z blocks of channels.

const C: u32 = 3u;
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u;
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;

const LANES: u32 = 8u;
const CHANNEL_LANES: u32 = 8u; // divides LANES
const TILE_ROWS: u32 = 4u; // a multiple of STRIDE
const TILE_COLUMNS: u32 = 8u; // a multiple of STRIDE
const WINDOW_ROWS: u32 = 3u; // R or a multiple of STRIDE; the taps of so many rows are unrolled

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const ROW_TILES: u32 = (H + TILE_ROWS - 1u) / TILE_ROWS;
const COLUMN_TILES: u32 = (W + TILE_COLUMNS - 1u) / TILE_COLUMNS;
const IMAGES: u32 = LANES / CHANNEL_LANES;
// Pixel i of a tile and tap r of the window meet in row (i + PADDING − r) / STRIDE of ȳ, counted from the tile's own and
// possibly negative. The part of ȳ that a tile meets begins ROWS_BEFORE above, and likewise COLUMNS_BEFORE to the left.
const ROWS_BEFORE: i32 = (i32(WINDOW_ROWS + STRIDE) - 2 - i32(PADDING) + i32(PADDING * STRIDE)) / i32(STRIDE) - i32(PADDING);
const COLUMNS_BEFORE: i32 = (i32(S + STRIDE) - 2 - i32(PADDING) + i32(PADDING * STRIDE)) / i32(STRIDE) - i32(PADDING);
const CT_Y_ROWS: u32 = u32(i32((TILE_ROWS - 1u + PADDING) / STRIDE + 1u) + ROWS_BEFORE);
const CT_Y_COLUMNS: u32 = u32(i32((TILE_COLUMNS - 1u + PADDING) / STRIDE + 1u) + COLUMNS_BEFORE);

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> ct_y: array<f32>; // [N, K, P, Q]
@group(0) @binding(1) var<storage, read> w: array<f32>; // [K, C, R, S]
@group(0) @binding(2) var<storage, read_write> ct_x: array<f32>; // [N, C, H, W]

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = workgroup.y * workgroups.x + workgroup.x;
    let image = tile / (ROW_TILES * COLUMN_TILES) * IMAGES + lane / CHANNEL_LANES % IMAGES;
    let channel = workgroup.z * CHANNEL_LANES + lane % CHANNEL_LANES;
    let h_0 = tile / COLUMN_TILES % ROW_TILES * TILE_ROWS;
    let v_0 = tile % COLUMN_TILES * TILE_COLUMNS;
    // Surplus lanes repeat the work of the last image or channel: a branch would cost all lanes more.
    let ct_y_0 = min(image, extents.n - 1u) * (K * P * Q);
    let w_0 = min(channel, C - 1u) * (R * S);

    var sums: array<f32, TILE_ROWS * TILE_COLUMNS>;
    for (var k = 0u; k < K; k++) {
        for (var r_0 = 0u; r_0 < R; r_0 += WINDOW_ROWS) {
            var ct_y_tile: array<f32, CT_Y_ROWS * CT_Y_COLUMNS>;
            for (var i = 0u; i < CT_Y_ROWS; i++) {
                let p = h_0 / STRIDE - r_0 / STRIDE + i - u32(ROWS_BEFORE); // wraps round above P where negative
                for (var j = 0u; j < CT_Y_COLUMNS; j++) {
                    let q = v_0 / STRIDE + j - u32(COLUMNS_BEFORE);
                    let value = ct_y[ct_y_0 + (k * P + min(p, P - 1u)) * Q + min(q, Q - 1u)];
                    ct_y_tile[i * CT_Y_COLUMNS + j] = select(0.0, value, p < P && q < Q);
                }
            }
            for (var r = 0u; r < WINDOW_ROWS; r++) {
                for (var s = 0u; s < S; s++) {
                    let value = w[w_0 + (k * C * R + min(r_0 + r, R - 1u)) * S + s];
                    let tap = select(0.0, value, r_0 + r < R);
                    for (var i = 0u; i < TILE_ROWS; i++) {
                        for (var j = 0u; j < TILE_COLUMNS; j++) {
                            let h = i32(i + PADDING) - i32(r) + ROWS_BEFORE * i32(STRIDE);
                            let v = i32(j + PADDING) - i32(s) + COLUMNS_BEFORE * i32(STRIDE);
                            if h % i32(STRIDE) == 0 && v % i32(STRIDE) == 0 {
                                let met = ct_y_tile[u32(h) / STRIDE * CT_Y_COLUMNS + u32(v) / STRIDE];
                                sums[i * TILE_COLUMNS + j] = fma(met, tap, sums[i * TILE_COLUMNS + j]);
                            }
                        }
                    }
                }
            }
        }
    }

    if image >= extents.n || channel >= C {
        return;
    }
    for (var i = 0u; i < TILE_ROWS; i++) {
        for (var j = 0u; j < TILE_COLUMNS; j++) {
            if h_0 + i < H && v_0 + j < W {
                ct_x[((image * C + channel) * H + h_0 + i) * W + v_0 + j] = sums[i * TILE_COLUMNS + j];
            }
        }
    }
}

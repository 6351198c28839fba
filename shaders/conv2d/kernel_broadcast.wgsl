// conv2d/kernel on CPU drivers: w̄[k,c,r,s] = Σ_{n,p,q} x[n,c,h,v] · ȳ[n,k,p,q]
//     where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// A workgroup is one SIMD vector: its lanes are LANES output channels k. Each lane owns MICRO_C input channels and
// WINDOW_ROWS × S taps of w̄ in registers. x is indexed by workgroup_id and loop counters alone, so that a scalar load
// and a broadcast serve all lanes; TILE_COLUMNS pixels of ȳ serve all channels and taps. Each image is summed apart and
// then added: two short sums round less than one of n·P·Q terms. Workgroups x enumerate input channels, y output
// channels, z window rows.

const C: u32 = 3u;
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u;
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;

const LANES: u32 = 8u;
const MICRO_C: u32 = 3u;
const TILE_COLUMNS: u32 = 8u;
const WINDOW_ROWS: u32 = 3u; // divides R

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const TAPS: u32 = MICRO_C * WINDOW_ROWS * S;
// The part of an image row that meets the window from a tile of ȳ.
const X_COLUMNS: u32 = (TILE_COLUMNS - 1u) * STRIDE + S;

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [N, C, H, W]
@group(0) @binding(1) var<storage, read> ct_y: array<f32>; // [N, K, P, Q]
@group(0) @binding(2) var<storage, read_write> ct_w: array<f32>; // [K, C, R, S]

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c_0 = workgroup.x * MICRO_C;
    let k = workgroup.y * LANES + lane;
    let r_0 = workgroup.z * WINDOW_ROWS;

    var sums: array<f32, TAPS>;
    for (var image = 0u; image < extents.n; image++) {
        // Surplus lanes repeat the work of the last channel: a branch would cost all lanes more.
        let ct_y_0 = (image * K + min(k, K - 1u)) * (P * Q);
        var image_sums: array<f32, TAPS>;
        for (var p = 0u; p < P; p++) {
            for (var q_0 = 0u; q_0 < Q; q_0 += TILE_COLUMNS) {
                var ct_y_tile: array<f32, TILE_COLUMNS>;
                for (var j = 0u; j < TILE_COLUMNS; j++) {
                    let value = ct_y[ct_y_0 + p * Q + min(q_0 + j, Q - 1u)];
                    ct_y_tile[j] = select(0.0, value, q_0 + j < Q);
                }
                for (var i = 0u; i < MICRO_C * WINDOW_ROWS; i++) {
                    let c = min(c_0 + i / WINDOW_ROWS, C - 1u);
                    let h = p * STRIDE + r_0 + i % WINDOW_ROWS - PADDING; // wraps round above H where negative
                    var x_row: array<f32, X_COLUMNS>;
                    for (var j = 0u; j < X_COLUMNS; j++) {
                        let v = q_0 * STRIDE + j - PADDING;
                        let value = x[((image * C + c) * H + min(h, H - 1u)) * W + min(v, W - 1u)];
                        x_row[j] = select(0.0, value, h < H && v < W);
                    }
                    for (var s = 0u; s < S; s++) {
                        for (var j = 0u; j < TILE_COLUMNS; j++) {
                            image_sums[i * S + s] = fma(x_row[j * STRIDE + s], ct_y_tile[j], image_sums[i * S + s]);
                        }
                    }
                }
            }
        }
        for (var tap = 0u; tap < TAPS; tap++) {
            sums[tap] += image_sums[tap];
        }
    }

    for (var tap = 0u; tap < TAPS; tap++) {
        let c = c_0 + tap / (WINDOW_ROWS * S);
        let r = r_0 + tap / S % WINDOW_ROWS;
        if k < K && c < C {
            ct_w[((k * C + c) * R + r) * S + tap % S] = sums[tap];
        }
    }
}

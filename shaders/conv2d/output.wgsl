// conv2d/output: y[n,k,p,q] = Σ_{c,r,s} x[n,c,h,v] · w[k,c,r,s]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// Implicit GEMM of M = K channels by N = n·P·Q pixels over C·R·S taps, by gemm/tile. A slab has TAPS window taps of BLOCK
// channels; a segment has all channels of these taps, or those that do not fill a slab. Workgroups (x, y) enumerate tiles
// of pixels, z tiles of channels, group after group.

const CHANNELS: u32 = 3u; // of one group
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u; // of one group
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;
const GROUPS: u32 = 1u;

const BLOCK: u32 = 1u; // divides TILE_K
const TRANSPOSED: u32 = 0u; // 1: w is the transpose of the matrix of GROUPS·K rows

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;
const TAPS: u32 = TILE_K / BLOCK;
const CHANNEL_TILES: u32 = (K + TILE_M - 1u) / TILE_M;
// How far the rows and the depth of A lie apart.
const ROW: u32 = select(CHANNELS * R * S, 1u, TRANSPOSED == 1u);
const TERM: u32 = select(1u, GROUPS * K, TRANSPOSED == 1u);

struct Extents {
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> b: array<StoredB>; // x [N, GROUPS·C, H, W]
@group(0) @binding(1) var<storage, read> a: array<StoredA>; // w [GROUPS·K, C, R, S] or [C, R, S, GROUPS·K]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [N, GROUPS·K, P, Q]

const A_ALONG_K: u32 = 1u - TRANSPOSED;
const A_IS_WHOLE: bool = K % TILE_M == 0u && CHANNELS % BLOCK == 0u && (R * S) % TAPS == 0u;
const A_HEIGHT: u32 = 1u;
const A_WIDTH: u32 = 1u;
const B_ALONG_K: u32 = 0u;
const B_HEIGHT: u32 = H;
const B_WIDTH: u32 = W;

struct Tile {
    m: u32,
    n: u32,
    group: u32,
}

fn tile_of(workgroup: vec3<u32>, workgroups: vec3<u32>) -> Tile {
    let m = workgroup.z % CHANNEL_TILES * TILE_M;
    let n = (workgroup.y * workgroups.x + workgroup.x) * TILE_N;
    return Tile(m, n, workgroup.z / CHANNEL_TILES);
}

fn a_row(tile: Tile, m: u32) -> Place {
    return Place((tile.group * K + m) * ROW, select(NOWHERE, 0u, m < K), 0u);
}

fn b_column(tile: Tile, n: u32) -> Place {
    let image = n / (P * Q);
    let h = n / Q % P * STRIDE - PADDING;
    let v = n % Q * STRIDE - PADDING;
    let at = ((image * GROUPS + tile.group) * CHANNELS * H + h) * W + v;
    return Place(at, select(NOWHERE, h, image < extents.n), v);
}

fn slab_count(tile: Tile) -> u32 {
    return (CHANNELS + BLOCK - 1u) / BLOCK * ((R * S + TAPS - 1u) / TAPS);
}

// A segment is its first channel and its first tap.
fn segment_slabs(tile: Tile, segment: vec2<u32>) -> u32 {
    return max((CHANNELS - segment.x) / BLOCK, 1u);
}

fn segment_after(tile: Tile, segment: vec2<u32>) -> vec2<u32> {
    let channel = segment.x + segment_slabs(tile, segment) * BLOCK;
    return vec2(select(0u, channel, channel < CHANNELS), segment.y + select(TAPS, 0u, channel < CHANNELS));
}

fn a_stride() -> u32 {
    return BLOCK * (R * S) * TERM;
}

fn b_stride() -> u32 {
    return BLOCK * (H * W);
}

fn depth_at(tile: Tile, segment: vec2<u32>, k: u32) -> Depth {
    let c = segment.x + k % BLOCK;
    let tap = segment.y + select(k / BLOCK, 0u, TAPS == 1u);
    let is_inside = (CHANNELS % BLOCK == 0u || c < CHANNELS) & (tap < R * S);
    let r = tap / S;
    let s = tap % S;
    let a = Place((c * (R * S) + tap) * TERM, select(NOWHERE, 0u, is_inside), 0u);
    return Depth(a, Place((c * H + r) * W + s, select(NOWHERE, r, is_inside), s));
}

fn y_row(tile: Tile, m: u32) -> u32 {
    return select(NOWHERE, m * (P * Q), m < K);
}

fn y_column(tile: Tile, n: u32) -> u32 {
    let image = n / (P * Q);
    return select(NOWHERE, (image * GROUPS + tile.group) * K * (P * Q) + n % (P * Q), image < extents.n);
}

// include gemm/loads
// include gemm/tile

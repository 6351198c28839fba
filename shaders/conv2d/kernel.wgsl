// conv2d/kernel: w̄[k,c,r,s] = Σ_{n,p,q} x[n,c,h,v] · ȳ[n,k,p,q]
//     in each of GROUPS groups of channels, where h = p·STRIDE + r − PADDING, v = q·STRIDE + s − PADDING
//
// Implicit GEMM of M = K channels by N = C·R·S taps over n·P·Q pixels, by gemm/tile. The sum is long and its results are
// few, so the images may fall into runs, each with a sum of its own. Workgroups x enumerate tiles of taps, y tiles of
// channels, z groups, run after run.

const C: u32 = 3u; // of one group
const H: u32 = 32u;
const W: u32 = 32u;
const K: u32 = 64u; // of one group
const R: u32 = 3u;
const S: u32 = 3u;
const STRIDE: u32 = 1u;
const PADDING: u32 = 1u;
const GROUPS: u32 = 1u;

const P: u32 = (H + 2u * PADDING - R) / STRIDE + 1u;
const Q: u32 = (W + 2u * PADDING - S) / STRIDE + 1u;

struct Extents {
    n: u32,
    run: u32, // images of a run; the last may have fewer
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> b: array<f32>; // x [N, GROUPS·C, H, W]
@group(0) @binding(1) var<storage, read> a: array<f32>; // ȳ [N, GROUPS·K, P, Q]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // w̄ [runs, GROUPS·K, C, R, S]

const A_ALONG_K: u32 = 1u;
const A_IS_WHOLE: bool = K % TILE_M == 0u && (P * Q) % TILE_K == 0u;
const B_ALONG_K: u32 = 1u;
const B_HEIGHT: u32 = H;
const B_WIDTH: u32 = W;

struct Tile {
    m: u32,
    n: u32,
    group: u32,
    run: u32,
}

fn tile_of(workgroup: vec3<u32>, workgroups: vec3<u32>) -> Tile {
    return Tile(workgroup.y * TILE_M, workgroup.x * TILE_N, workgroup.z % GROUPS, workgroup.z / GROUPS);
}

fn images_end(tile: Tile) -> u32 {
    return min((tile.run + 1u) * extents.run, extents.n);
}

fn a_row(tile: Tile, m: u32) -> u32 {
    return select(NOWHERE, (tile.group * K + m) * (P * Q), m < K);
}

fn b_column(tile: Tile, n: u32) -> Column {
    let c = n / (R * S);
    let h = n / S % R - PADDING;
    let v = n % S - PADDING;
    return Column(((tile.group * C + c) * H + h) * W + v, select(NOWHERE, h, c < C), v);
}

fn slab_count(tile: Tile) -> u32 {
    return ((images_end(tile) - tile.run * extents.run) * (P * Q) + TILE_K - 1u) / TILE_K;
}

// A slab is its first pixel in the run.
fn slab_after(tile: Tile, slab: vec2<u32>) -> vec2<u32> {
    return vec2(slab.x + TILE_K, 0u);
}

fn depth_at(tile: Tile, slab: vec2<u32>, k: u32) -> Depth {
    let pixel = slab.x + k;
    let image = tile.run * extents.run + pixel / (P * Q);
    let h = pixel / Q % P * STRIDE;
    let v = pixel % Q * STRIDE;
    let is_inside = (P * Q) % TILE_K == 0u || image < images_end(tile);
    let a = image * (GROUPS * K * P * Q) + pixel % (P * Q);
    return Depth(select(NOWHERE, a, is_inside), (image * (GROUPS * C * H) + h) * W + v, select(NOWHERE, h, is_inside), v);
}

fn y_row(tile: Tile, m: u32) -> u32 {
    return select(NOWHERE, ((tile.run * GROUPS + tile.group) * K + m) * (C * R * S), m < K);
}

fn y_column(tile: Tile, n: u32) -> u32 {
    return select(NOWHERE, n, n < C * R * S);
}

// include gemm/tile

// matmul/product: z[m,n] = Σ_k A(m,k) · B(k,n), by gemm/tile
//
// Workgroups x enumerate tiles along N, y along M.

const TRANSPOSE_A: u32 = 0u; // 1: a holds Aᵀ
const TRANSPOSE_B: u32 = 0u; // 1: b holds Bᵀ

struct Extents {
    m: u32,
    n: u32,
    k: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> a: array<f32>; // [M, K] or [K, M]
@group(0) @binding(1) var<storage, read> b: array<f32>; // [K, N] or [N, K]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // z [M, N]

const A_ALONG_K: u32 = 1u - TRANSPOSE_A;
const A_IS_WHOLE: bool = false;
const B_ALONG_K: u32 = TRANSPOSE_B;
// A column is a plane of one element.
const B_HEIGHT: u32 = 1u;
const B_WIDTH: u32 = 1u;

struct Tile {
    m: u32,
    n: u32,
}

fn tile_of(workgroup: vec3<u32>, workgroups: vec3<u32>) -> Tile {
    return Tile(workgroup.y * TILE_M, workgroup.x * TILE_N);
}

fn a_row(tile: Tile, m: u32) -> u32 {
    return select(NOWHERE, select(m * extents.k, m, TRANSPOSE_A == 1u), m < extents.m);
}

fn b_column(tile: Tile, n: u32) -> Column {
    return Column(select(n, n * extents.k, TRANSPOSE_B == 1u), select(NOWHERE, 0u, n < extents.n), 0u);
}

fn slab_count(tile: Tile) -> u32 {
    return (extents.k + TILE_K - 1u) / TILE_K;
}

// A slab is its first k.
fn slab_after(tile: Tile, slab: vec2<u32>) -> vec2<u32> {
    return vec2(slab.x + TILE_K, 0u);
}

fn depth_at(tile: Tile, slab: vec2<u32>, k: u32) -> Depth {
    let at = slab.x + k;
    let a = select(at, at * extents.m, TRANSPOSE_A == 1u);
    let b = select(at * extents.n, at, TRANSPOSE_B == 1u);
    return Depth(select(NOWHERE, a, at < extents.k), b, select(NOWHERE, 0u, at < extents.k), 0u);
}

fn y_row(tile: Tile, m: u32) -> u32 {
    return select(NOWHERE, m * extents.n, m < extents.m);
}

fn y_column(tile: Tile, n: u32) -> u32 {
    return select(NOWHERE, n, n < extents.n);
}

// include gemm/tile

// layout/transpose: y[n, m] = x[m, n]
//
// A workgroup turns a tile of 32 × 32 elements round in workgroup memory, so that its invocations are neighbours along the
// rows of x where they read and along those of y where they write. Each has 4 elements, 8 rows apart. Workgroups x enumerate
// tiles along N, y along M, in grid-stride loops.

struct Extents {
    m: u32,
    n: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> x: array<f32>; // [M, N]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [N, M]

const TILE: u32 = 32u;
const ROWS: u32 = 8u;
// One element more a row: a column lies in different memory banks.
const PITCH: u32 = TILE + 1u;
var<workgroup> tile: array<f32, TILE * PITCH>;

@compute @workgroup_size(TILE, ROWS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_id) id: vec3<u32>,
) {
    for (var m = workgroup.y * TILE; m < extents.m; m += grid.y * TILE) {
        for (var n = workgroup.x * TILE; n < extents.n; n += grid.x * TILE) {
            for (var row = id.y; row < TILE; row += ROWS) {
                if m + row < extents.m && n + id.x < extents.n {
                    tile[row * PITCH + id.x] = x[(m + row) * extents.n + n + id.x];
                }
            }
            workgroupBarrier();
            for (var row = id.y; row < TILE; row += ROWS) {
                if n + row < extents.n && m + id.x < extents.m {
                    y[(n + row) * extents.m + m + id.x] = tile[id.x * PITCH + row];
                }
            }
            workgroupBarrier();
        }
    }
}

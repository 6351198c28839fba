// peak/matrix: y[lane] = Σ_c X_c[lane] after `rounds` rounds of X_c ← A·B + X_c, each of STEPS such products of TILE × TILE
//
// The ceiling of matrix units with f16 factors and f32 sums. Each 32 invocations (one subgroup, or several that do the
// same work) keep four independent sums. A and B come from memory and y depends on every step, so that the compiler can
// neither precompute nor skip a step.
enable f16;
enable wgpu_cooperative_matrix;

const STEPS: u32 = 16u;
const TILE: u32 = 16u; // side of a matrix; its type's name follows

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

struct Extents {
    rounds: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> factors: array<f32>;   // [a, b]: all elements of A, and of B
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // one for each invocation

var<workgroup> a: array<f16, TILE * TILE>;
var<workgroup> b: array<f16, TILE * TILE>;
var<workgroup> results: array<f32, 2u * TILE * TILE>; // a matrix for each 32 invocations

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) invocation: u32) {
    for (var i = invocation; i < TILE * TILE; i += 64u) {
        a[i] = f16(factors[0]);
        b[i] = f16(factors[1]);
    }
    workgroupBarrier();
    let left = coopLoadT<Left>(&a[0], TILE);
    let right = coopLoadT<Right>(&b[0], TILE);
    var sum_0: Sum;
    var sum_1: Sum;
    var sum_2: Sum;
    var sum_3: Sum;
    for (var round = 0u; round < extents.rounds; round++) {
        for (var step = 0u; step < STEPS; step++) {
            sum_0 = coopMultiplyAdd(left, right, sum_0);
            sum_1 = coopMultiplyAdd(left, right, sum_1);
            sum_2 = coopMultiplyAdd(left, right, sum_2);
            sum_3 = coopMultiplyAdd(left, right, sum_3);
        }
    }
    let sum = sum_0 + sum_1 + sum_2 + sum_3;
    let result = &results[invocation / 32u * (TILE * TILE)];
    let pitch = TILE;
    coopStoreT(sum, result, pitch);
    workgroupBarrier();
    if id.x < arrayLength(&y) {
        y[id.x] = results[invocation / 32u * (TILE * TILE) + invocation % 32u];
    }
}

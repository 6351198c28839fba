// peak/workgroup: y[lane] = Σ of `rounds` · STEPS vec4 of workgroup memory
//
// Neighbouring invocations read neighbouring elements. The position advances with each round, so that no load can be
// hoisted out of the loop.
const STEPS: u32 = 8u;

struct Extents {
    rounds: u32,
}
var<immediate> extents: Extents;

@group(0) @binding(0) var<storage, read> value: array<f32>;     // [1]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // one for each invocation

var<workgroup> tile: array<vec4<f32>, 512>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    for (var i = lane; i < 512u; i += 64u) {
        tile[i] = vec4(value[0] + f32(i));
    }
    workgroupBarrier();
    var sum = vec4(0.0);
    for (var round = 0u; round < extents.rounds; round++) {
        for (var step = 0u; step < STEPS; step++) {
            sum += tile[(lane + round + 64u * step) & 511u];
        }
    }
    if id.x < arrayLength(&y) {
        y[id.x] = dot(sum, vec4(1.0));
    }
}

// peak/read: reads x once; a workgroup reads TERMS · 64 consecutive vec4
//
// The sum is written only if it equals a value it never has, so the loads are not removed and no store is timed.
const TERMS: u32 = 4u;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [1]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let start = (workgroup.y * grid.x + workgroup.x) * TERMS * 64u + lane;
    var sum = vec4(0.0);
    for (var term = 0u; term < TERMS; term++) {
        let i = start + 64u * term;
        if i < arrayLength(&x) {
            sum += x[i];
        }
    }
    if dot(sum, vec4(1.0)) == -1.2345e30 {
        y[0] = 1.0;
    }
}

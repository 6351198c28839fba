// A tree of sums without a barrier between its levels.
// dispatch: 1 | 64 1
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    partial[lane] = x[lane]; // reports: race
    for (var half = 32u; half > 0u; half >>= 1u) {
        // sound: workgroupBarrier();
        if lane < half {
            partial[lane] += partial[lane + half]; // reports: race unwritten
        }
    }
    if lane == 0u {
        y[0] = partial[0];
    }
}

// A slab that is filled anew while others still read the last one.
// dispatch: 1 | 256 64
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> slab: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var first = 0u; first < 256u; first += 64u) {
        slab[lane] = x[first + lane]; // reports: race
        workgroupBarrier();
        sum += slab[63u - lane]; // reports: race
        // sound: workgroupBarrier();
    }
    y[lane] = sum;
}

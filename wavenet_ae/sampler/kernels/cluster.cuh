// What a cluster of blocks needs of the machine under it: barriers in shared memory that count bytes, numbers sent to other
// blocks' shared memory, copies beside the work. Tests run the kernel on a CPU and give their own of all this.
#pragma once
#include "patience.cuh"

#ifndef ON_CPU
// A barrier's phase is over when all who are awaited have arrived and all bytes expected have come, in any order.
struct Barrier { unsigned long long opaque; };

__device__ __forceinline__ unsigned in_shared(const void* place) { return (unsigned)__cvta_generic_to_shared(place); }
__device__ __forceinline__ void begin(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(in_shared(barrier)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" :: "r"(in_shared(barrier)) : "memory");
}
__device__ __forceinline__ void expect(Barrier* barrier, int bytes) {  // and arrive
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;"
               :: "r"(in_shared(barrier)), "r"(bytes) : "memory");
}
__device__ __forceinline__ bool is_over(Barrier* barrier, int turn) {  // looks for up to a microsecond
  unsigned over;
  asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2, %3; selp.u32 %0, 1, 0, p; }"
               : "=r"(over) : "r"(in_shared(barrier)), "r"(turn), "r"(1000) : "memory");
  return over;
}
__device__ __forceinline__ bool is_over_by_peers(Barrier* barrier, int turn) {  // the same, where other blocks have written
  unsigned over;
  asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2, %3; selp.u32 %0, 1, 0, p; }"
               : "=r"(over) : "r"(in_shared(barrier)), "r"(turn), "r"(1000) : "memory");
  return over;
}

// From the GPU's memory to the block's, whole quads.
__device__ __forceinline__ void copy_in(Quad* to, const Quad* from, int bytes, Barrier* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :: "r"(in_shared(to)), "l"(from), "r"(bytes), "r"(in_shared(barrier)) : "memory");
}

// A place in the shared memory of another block of the cluster, where it is in one's own.
__device__ __forceinline__ unsigned of_peer(const void* place, int peer) {
  unsigned there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(in_shared(place)), "r"(peer));
  return there;
}
__device__ __forceinline__ void send(void* place, const Quad& q, Barrier* barrier, int peer) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];"
               :: "r"(of_peer(place, peer)), "r"(q.at[0]), "r"(q.at[1]), "r"(q.at[2]), "r"(q.at[3]), "r"(of_peer(barrier, peer))
               : "memory");
}
__device__ __forceinline__ void send(void* place, unsigned word, Barrier* barrier, int peer) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];"
               :: "r"(of_peer(place, peer)), "r"(word), "r"(of_peer(barrier, peer)) : "memory");
}

// From one's own shared memory to where it is in another block's; first, copies must be let see what was written.
__device__ __forceinline__ void let_copies_see() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void copy_out(void* place, int bytes, Barrier* barrier, int peer) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :: "r"(of_peer(place, peer)), "r"(in_shared(place)), "r"(bytes), "r"(of_peer(barrier, peer)) : "memory");
}

// All threads of the cluster: what one wrote before it arrived, all see after they have waited.
__device__ __forceinline__ void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// Registers of every thread of four warps that are side by side: given back, or taken of those that others gave back.
template <int COUNT> __device__ __forceinline__ void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(COUNT));
}

// The GPU's memory as other blocks see it, past the first-level cache.
__device__ __forceinline__ void write_through(Quad* to, const Quad& q) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :: "l"(to), "r"(q.at[0]), "r"(q.at[1]), "r"(q.at[2]), "r"(q.at[3]) : "memory");
}
__device__ __forceinline__ void read_through(unsigned (&two)[2], const unsigned* from) {
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];" : "=r"(two[0]), "=r"(two[1]) : "l"(from) : "memory");
}
#endif

// Until a phase is over: the first of a barrier has turn 0, the next 1, the next 0.
__device__ __forceinline__ void await(Barrier* barrier, int turn, Patience& patience) {
  for (patience.tries = 0; !is_over(barrier, turn) && patience.goes_on();) LOOK_FOR(barrier);
}
__device__ __forceinline__ void await_peers(Barrier* barrier, int turn, Patience& patience) {
  for (patience.tries = 0; !is_over_by_peers(barrier, turn) && patience.goes_on();) LOOK_FOR(barrier);
}

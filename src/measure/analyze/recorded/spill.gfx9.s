	s_mov_b32 s0, 0                                             ; be800080
BB1:
	s_lshl_b32 s8, s0, 2                                        ; 8e088200
	s_buffer_load_dword s8, s[4:7], s8                          ; c0200202 00000008
	s_waitcnt vmcnt(29) lgkmcnt(0)                              ; bf8c407d
	v_mad_f32 v15, s8, v15, v46                                 ; d1c1000f 04ba1e08
	s_waitcnt vmcnt(28)                                         ; bf8c7f7c
	v_mad_f32 v16, s8, v16, v47                                 ; d1c10010 04be2008
	v_mad_f32 v1, s8, v1, v32                                   ; d1c10001 04820208
	v_mad_f32 v2, s8, v2, v33                                   ; d1c10002 04860408
	v_mad_f32 v3, s8, v3, v34                                   ; d1c10003 048a0608
	v_mad_f32 v4, s8, v4, v35                                   ; d1c10004 048e0808
	v_mad_f32 v5, s8, v5, v36                                   ; d1c10005 04920a08
	v_mad_f32 v7, s8, v7, v38                                   ; d1c10007 049a0e08
	v_mad_f32 v8, s8, v8, v39                                   ; d1c10008 049e1008
	v_mad_f32 v9, s8, v9, v40                                   ; d1c10009 04a21208
	v_mad_f32 v10, s8, v10, v41                                 ; d1c1000a 04a61408
	v_mad_f32 v11, s8, v11, v42                                 ; d1c1000b 04aa1608
	v_mad_f32 v13, s8, v13, v44                                 ; d1c1000d 04b21a08
	v_mad_f32 v14, s8, v14, v45                                 ; d1c1000e 04b61c08
	s_waitcnt vmcnt(27)                                         ; bf8c7f7b
	v_mad_f32 v17, s8, v17, v48                                 ; d1c10011 04c22208
	s_waitcnt vmcnt(25)                                         ; bf8c7f79
	v_mad_f32 v19, s8, v19, v50                                 ; d1c10013 04ca2608
	s_waitcnt vmcnt(24)                                         ; bf8c7f78
	v_mad_f32 v20, s8, v20, v51                                 ; d1c10014 04ce2808
	s_waitcnt vmcnt(23)                                         ; bf8c7f77
	v_mad_f32 v21, s8, v21, v52                                 ; d1c10015 04d22a08
	s_waitcnt vmcnt(22)                                         ; bf8c7f76
	v_mad_f32 v22, s8, v22, v53                                 ; d1c10016 04d62c08
	s_waitcnt vmcnt(21)                                         ; bf8c7f75
	v_mad_f32 v23, s8, v23, v54                                 ; d1c10017 04da2e08
	s_waitcnt vmcnt(20)                                         ; bf8c7f74
	v_mad_f32 v24, s8, v24, v55                                 ; d1c10018 04de3008
	s_waitcnt vmcnt(19)                                         ; bf8c7f73
	v_mad_f32 v25, s8, v25, v56                                 ; d1c10019 04e23208
	s_waitcnt vmcnt(18)                                         ; bf8c7f72
	v_mad_f32 v26, s8, v26, v57                                 ; d1c1001a 04e63408
	s_waitcnt vmcnt(17)                                         ; bf8c7f71
	v_mad_f32 v27, s8, v27, v58                                 ; d1c1001b 04ea3608
	s_waitcnt vmcnt(16)                                         ; bf8c7f70
	v_mad_f32 v28, s8, v28, v59                                 ; d1c1001c 04ee3808
	s_waitcnt vmcnt(15)                                         ; bf8c3f7f
	v_mad_f32 v29, s8, v29, v60                                 ; d1c1001d 04f23a08
	s_waitcnt vmcnt(2)                                          ; bf8c3f72
	v_mad_f32 v30, s8, v30, v49                                 ; d1c1001e 04c63c08
	s_waitcnt vmcnt(1)                                          ; bf8c3f71
	v_mad_f32 v31, s8, v31, v43                                 ; d1c1001f 04ae3e08
	s_waitcnt vmcnt(0)                                          ; bf8c3f70
	v_mad_f32 v0, s8, v0, v37                                   ; d1c10000 04960008
	scratch_store_dword off, v60, s1                            ; dc704000 00013c80
	scratch_load_dword v60, off, s1 offset:20                   ; dc504014 3c010080
	s_waitcnt vmcnt(0)                                          ; bf8c3f70
	v_mad_f32 v60, s8, v60, v61                                 ; d1c1003c 04f67808
	scratch_store_dword off, v61, s1 offset:4                   ; dc704004 00013d80
	scratch_load_dword v61, off, s1 offset:16                   ; dc504010 3d010080
	v_mad_f32 v32, s8, v32, v63                                 ; d1c10020 04fe4008
	v_mad_f32 v33, s8, v33, v6                                  ; d1c10021 041a4208
	v_mad_f32 v34, s8, v34, v12                                 ; d1c10022 04324408
	v_mad_f32 v35, s8, v35, v18                                 ; d1c10023 044a4608
	v_mad_f32 v36, s8, v36, v1                                  ; d1c10024 04064808
	v_mad_f32 v37, s8, v37, v2                                  ; d1c10025 040a4a08
	v_mad_f32 v38, s8, v38, v3                                  ; d1c10026 040e4c08
	v_mad_f32 v39, s8, v39, v4                                  ; d1c10027 04124e08
	v_mad_f32 v40, s8, v40, v5                                  ; d1c10028 04165008
	v_mad_f32 v41, s8, v41, v0                                  ; d1c10029 04025208
	v_mad_f32 v42, s8, v42, v7                                  ; d1c1002a 041e5408
	v_mad_f32 v43, s8, v43, v8                                  ; d1c1002b 04225608
	v_mad_f32 v44, s8, v44, v9                                  ; d1c1002c 04265808
	v_mad_f32 v45, s8, v45, v10                                 ; d1c1002d 042a5a08
	v_mad_f32 v46, s8, v46, v11                                 ; d1c1002e 042e5c08
	v_mad_f32 v47, s8, v47, v31                                 ; d1c1002f 047e5e08
	v_mad_f32 v48, s8, v48, v13                                 ; d1c10030 04366008
	v_mad_f32 v49, s8, v49, v14                                 ; d1c10031 043a6208
	v_mad_f32 v50, s8, v50, v15                                 ; d1c10032 043e6408
	v_mad_f32 v51, s8, v51, v16                                 ; d1c10033 04426608
	v_mad_f32 v52, s8, v52, v17                                 ; d1c10034 04466808
	v_mad_f32 v53, s8, v53, v30                                 ; d1c10035 047a6a08
	v_mad_f32 v54, s8, v54, v19                                 ; d1c10036 044e6c08
	v_mad_f32 v55, s8, v55, v20                                 ; d1c10037 04526e08
	v_mad_f32 v56, s8, v56, v21                                 ; d1c10038 04567008
	v_mad_f32 v57, s8, v57, v22                                 ; d1c10039 045a7208
	v_mad_f32 v58, s8, v58, v23                                 ; d1c1003a 045e7408
	v_mad_f32 v59, s8, v59, v24                                 ; d1c1003b 04627608
	s_waitcnt vmcnt(0)                                          ; bf8c3f70
	v_mad_f32 v61, s8, v61, v62                                 ; d1c1003d 04fa7a08
	scratch_store_dword off, v18, s1 offset:8                   ; dc704008 00011280
	scratch_load_dword v18, off, s1                             ; dc504000 12010080
	s_waitcnt vmcnt(0)                                          ; bf8c3f70
	v_mad_f32 v18, s8, v18, v25                                 ; d1c10012 04662408
	scratch_store_dword off, v12, s1                            ; dc704000 00010c80
	scratch_load_dword v12, off, s1 offset:4                    ; dc504004 0c010080
	v_mad_f32 v62, s8, v62, v27                                 ; d1c1003e 046e7c08
	v_mad_f32 v63, s8, v63, v28                                 ; d1c1003f 04727e08
	v_mad_f32 v6, s8, v6, v29                                   ; d1c10006 04760c08
	s_waitcnt vmcnt(0)                                          ; bf8c3f70
	v_mad_f32 v12, s8, v12, v26                                 ; d1c1000c 046a1808
	scratch_store_dword off, v1, s1 offset:4                    ; dc704004 00010180
	scratch_load_dword v1, off, s1                              ; dc504000 01010080
	s_waitcnt vmcnt(0)                                          ; bf8c3f70
	v_mad_f32 v1, s8, v1, v60                                   ; d1c10001 04f20208
	scratch_store_dword off, v2, s1                             ; dc704000 00010280
	scratch_load_dword v2, off, s1 offset:8                     ; dc504008 02010080
	s_add_u32 s0, s0, 1                                         ; 80008100
	s_cmpk_ge_u32 s0, 0x3e8                                     ; b58003e8
	s_waitcnt vmcnt(0)                                          ; bf8c3f70
	v_mad_f32 v2, s8, v2, v61                                   ; d1c10002 04f60408
	s_cbranch_scc1 BB5                                          ; bf850010
BB4:
	scratch_store_dword off, v61, s1 offset:16                  ; dc704010 00013d80
	scratch_store_dword off, v60, s1 offset:20                  ; dc704014 00013c80
	scratch_load_dword v60, off, s1 offset:4                    ; dc504004 3c010080
	scratch_load_dword v61, off, s1                             ; dc504000 3d010080
	s_waitcnt vmcnt(1)                                          ; bf8c3f71
	v_swap_b32 v1, v60                                          ; 7e02a33c
	s_waitcnt vmcnt(0)                                          ; bf8c3f70
	v_swap_b32 v2, v61                                          ; 7e04a33d
	v_swap_b32 v12, v60                                         ; 7e18a33c
	v_swap_b32 v18, v61                                         ; 7e24a33d
	v_swap_b32 v60, v61                                         ; 7e78a33d
	s_branch BB1                                                ; bf82ff37
BB5:
	scratch_store_dword off, v2, s1 offset:8                    ; dc704008 00010280

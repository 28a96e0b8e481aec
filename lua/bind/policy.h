/* policy.h - the policy that a script bound, for the reader of a job's options. Thread: the loop thread. */
#pragma once
#include "engine/policy.h"
#include <lua.h>

/* A new reference to the policy at index, or NULL when it is none. */
qh_policy *qh_policy_at(lua_State *L, int index);

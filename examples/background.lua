-- background.lua: work that takes longer than anybody wants to wait for.
--   qhost serve examples/background.lua
--   curl http://127.0.0.1:8080/stories -d '{"topics": ["a lighthouse", "a fox"]}'
--   curl http://127.0.0.1:8080/stories/ID      with the id that the first one tells
local qh = require "qhost"

local t = qh.schema
local llm = qh.model(qh.env("MODEL", "smollm2-135m"))
local app = qh.app()

local KEEP = 600                 -- seconds that a finished job can be fetched
local MOST = 100                 -- jobs at a time
local jobs, n_jobs = {}, 0       -- id -> { status, done, of, stories, ended }

local function write(job, topic)
  local r, message = llm:chat { system = "Write two sentences.", prompt = "A story about " .. topic .. ".",
    max_tokens = 80, temperature = 0.8 }
  job.done = job.done + 1
  return { topic = topic, text = r and r.text, error = message }
end

local function work(job, topics)
  job.status = "running"
  job.stories = qh.map(topics, function(topic) return write(job, topic) end, { limit = 4 })
  job.status, job.ended = "done", qh.clock()
end

local wanted = t.object { { "topics", t.list(t.string { min = 1, max = 200 }, { min = 1, max = 20 }) } }

app:post("/stories", function(req, res)
  local topics = req:json(wanted).topics
  if n_jobs >= MOST then qh.abort(429, "too_many_jobs", { retry_after = 5 }) end
  local job = { status = "waiting", done = 0, of = #topics }
  jobs[req.id], n_jobs = job, n_jobs + 1
  qh.background("stories " .. req.id, function() work(job, topics) end)      -- goes on when the client has left
  return res:status(202):header("location", "/stories/" .. req.id):json { id = req.id, status = job.status }
end)

app:get("/stories/:id", function(req, res)
  local job = jobs[req.params.id] or qh.abort(404, "no_such_job")
  return res:json { status = job.status, done = job.done, of = job.of, stories = job.stories }
end)

-- A timer of this app: what nobody fetched goes away.
qh.every(10, function()
  for id, job in pairs(jobs) do
    if job.ended and qh.clock() - job.ended > KEEP then jobs[id], n_jobs = nil, n_jobs - 1 end
  end
end, { name = "forget old jobs" })

return app

"""An app with agents on a scripted model that says, turn by turn, what the first user message tells it to."""
import json

# The first user message is a list of turns, joined by "||"; "$R" stands for the results of the last turn's calls.
MODEL = r'''
return { ctx = %d, rate = %s, template = %s, reply = function(prompt)
  local user, n = prompt:match "<|im_start|>user\n(.-)<|im_end|>", 0
  for _ in prompt:gmatch "<|im_start|>assistant\n" do n = n + 1 end
  local turns = {}
  for turn in (user .. "||"):gmatch "(.-)||" do turns[#turns + 1] = turn end
  local tail, results = prompt:match "^(.*)<|im_start|>assistant\n$":match "^.*<|im_start|>assistant\n(.*)$" or "", {}
  for r in tail:gmatch "<|im_start|>tool\n(.-)<|im_end|>" do results[#results + 1] = r end
  return ((turns[n] or ""):gsub("%%$R", function() return table.concat(results, " & ") end))
end }
'''


def model_source(ctx=8192, rate="nil", template="nil"):
    return MODEL % (ctx, rate, template)


def call(name, **arguments):
    """A call as the model writes it."""
    return "<tool_call>" + json.dumps({"name": name, "arguments": arguments}) + "</tool_call>"


def turns(*list_of_turns):
    return "||".join(list_of_turns)


def events_of(text):
    return [json.loads(line) for line in text.splitlines()]


def by_type(events, kind):
    return [e for e in events if e["type"] == kind]


def text_of(events):
    return "".join(e["text"] for e in by_type(events, "text"))

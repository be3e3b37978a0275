"""Agents that people build on, unchanged: their first requests and the turns after it. Skipped where not installed."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from support.serving import MODEL, Served

OPTIONS: dict[str, Any] = {"seed": 1, "max_tokens": 100}


def test_autogen(served: Served) -> None:
    """AutoGen names the author of every message."""
    agents = pytest.importorskip("autogen_agentchat.agents")
    models = pytest.importorskip("autogen_ext.models.openai")

    async def run() -> list[Any]:
        info = {
            "vision": False,
            "function_calling": True,
            "json_output": True,
            "family": "unknown",
            "structured_output": True,
        }
        client = models.OpenAIChatCompletionClient(
            model=MODEL, base_url=f"{served.url}/v1", api_key="unused", model_info=info, max_tokens=30, seed=1
        )
        agent = agents.AssistantAgent("helper", model_client=client, system_message="You are helpful.")
        first = await agent.run(task="Tell me a story.")
        second = await agent.run(task="Go on.")
        await client.close()
        return [*first.messages, *second.messages]

    messages = asyncio.run(run())
    assert [m.source for m in messages] == ["user", "helper", "user", "helper"] and messages[1].content


def _chat(served: Served) -> Any:
    openai = pytest.importorskip("langchain_openai")
    return openai.ChatOpenAI(model=MODEL, base_url=f"{served.url}/v1", api_key="unused", max_retries=0, **OPTIONS)


def test_langchain_names(served: Served) -> None:
    chat = _chat(served)
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    named = chat.invoke([
        SystemMessage("Be brief.", name="rules"), HumanMessage("Hi", name="bob"), AIMessage("Hello!", name="helper"),
        HumanMessage("Tell me a story.", name="eve"),
    ])  # fmt: skip
    plain = chat.invoke([
        SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hello!"), HumanMessage("Tell me a story."),
    ])  # fmt: skip
    assert named.content == plain.content


def test_langgraph(served: Served) -> None:
    """A named agent's own answers come back with its name."""
    prebuilt = pytest.importorskip("langgraph.prebuilt")
    memory = pytest.importorskip("langgraph.checkpoint.memory")
    agent = prebuilt.create_react_agent(_chat(served), tools=[], name="helper", checkpointer=memory.InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    for number, text in enumerate(("Tell me a story.", "Go on.", "And then?"), 1):
        state = agent.invoke({"messages": [("user", text)]}, config)
        assert len(state["messages"]) == 2 * number and state["messages"][-1].name == "helper"


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_openai_agents(served: Served, api: str) -> None:
    """An agent with a tool, for as many turns as it takes, and a session with a second question."""
    agents = pytest.importorskip("agents", reason="openai-agents is not installed")
    if not hasattr(agents, "OpenAIResponsesModel"):
        pytest.skip("openai-agents is not installed")
    import openai

    agents.set_tracing_disabled(True)
    calls: list[str] = []

    @agents.function_tool
    def get_weather(city: Literal["Paris", "Rome"]) -> str:
        """Weather of a city."""
        calls.append(city)
        return "sunny"

    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
            kind = agents.OpenAIChatCompletionsModel if api == "chat" else agents.OpenAIResponsesModel
            agent = agents.Agent(
                name="helper",
                instructions="Answer briefly.",
                model=kind(MODEL, openai_client=client),
                tools=[get_weather],
                model_settings=agents.ModelSettings(
                    tool_choice="required", parallel_tool_calls=False, max_tokens=600, extra_body={"seed": 1},
                    metadata={"run": "test"}, store=False, verbosity="low",
                ),
            )  # fmt: skip
            talk = agents.Agent(
                name="talker",
                model=kind(MODEL, openai_client=client),
                model_settings=agents.ModelSettings(max_tokens=600, parallel_tool_calls=False),
            )
            first = await agents.Runner.run(talk, "Tell me a story.")
            second = await agents.Runner.run(talk, [*first.to_input_list(), {"role": "user", "content": "Go on."}])
            try:
                await agents.Runner.run(agent, "Weather in Paris?", max_turns=3)
            except agents.MaxTurnsExceeded:
                assert len(calls) >= 2  # a small model may call for ever
            return second.final_output

    assert asyncio.run(run())
    assert calls

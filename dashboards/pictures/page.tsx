// Draws one dashboard with Grafana's UI libraries. Queries were run before: window.INPUT has the answers.
import {
  applyFieldOverrides,
  cacheFieldDisplayNames,
  createTheme,
  dataLinksOverrideProcessor,
  dateTime,
  displayNameOverrideProcessor,
  FieldConfigOptionsRegistry,
  FieldType,
  getDisplayProcessor,
  getFieldDisplayName,
  identityOverrideProcessor,
  numberOverrideProcessor,
  standardTransformers,
  standardTransformersRegistry,
  stringOverrideProcessor,
  ThemeContext,
  thresholdsOverrideProcessor,
  toDataFrame,
  transformDataFrame,
  unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from "@grafana/data";
import { initPluginTranslations } from "@grafana/i18n";
import "@grafana/react-data-grid/lib/styles.css";
import { BarGauge, BigValue, GlobalStyles, PanelChrome, TimeSeries } from "@grafana/ui";
import { TableNG } from "@grafana/ui/unstable";
import { createElement, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { lastValueFrom } from "rxjs";
import "uplot/dist/uPlot.min.css";

const { board, answers, from, to } = (window as any).INPUT;
const CELL = { width: 66, height: 38, gap: 8 };
const theme = createTheme({ colors: { mode: "dark" } });
const timeRange = { from: dateTime(from), to: dateTime(to), raw: { from: "now-1h", to: "now" } };

const PROCESSORS: Record<string, any> = {
  unit: unitOverrideProcessor,
  min: numberOverrideProcessor,
  max: numberOverrideProcessor,
  decimals: numberOverrideProcessor,
  displayName: displayNameOverrideProcessor,
  noValue: stringOverrideProcessor,
  thresholds: thresholdsOverrideProcessor,
  mappings: valueMappingsOverrideProcessor,
  links: dataLinksOverrideProcessor,
  color: identityOverrideProcessor,
};
const registry = new FieldConfigOptionsRegistry(() =>
  Object.entries(PROCESSORS).map(
    ([id, process]) => ({ id, path: id, name: id, process, shouldApply: () => true, settings: {} }) as any,
  ),
);
standardTransformersRegistry.setInit(() =>
  [...new Map(Object.values(standardTransformers).map((it: any) => [it.id, it])).values()].map(
    (it: any) => ({ id: it.id, name: it.name, transformation: () => Promise.resolve(it) }) as any,
  ),
);

const TIME_SERIES = { drawStyle: "line", lineInterpolation: "linear", axisPlacement: "auto", pointSize: 4, spanNulls: 5000 };

async function buildFrames(panel: any) {
  let frames = answers[panel.id].map((it: any) => toDataFrame(it));
  if (panel.transformations?.length) {
    frames = await lastValueFrom(transformDataFrame(panel.transformations, frames, { interpolate: (v: string) => v }));
  }
  const isTimeSeries = panel.type === "timeseries";
  const color = { mode: isTimeSeries ? "palette-classic" : "thresholds" };
  const { custom, ...defaults } = panel.fieldConfig.defaults;
  const filled = applyFieldOverrides({
    data: frames,
    fieldConfig: { defaults: { color, ...defaults }, overrides: panel.fieldConfig.overrides },
    fieldConfigRegistry: registry,
    replaceVariables: (text: string) => text,
    theme,
    timeZone: "utc",
  });
  for (const frame of filled) {
    for (const field of frame.fields) {
      field.config.custom = { ...(isTimeSeries ? TIME_SERIES : {}), ...custom, ...field.config.custom };
    }
  }
  cacheFieldDisplayNames(filled);
  return filled;
}

function listValues(frames: any[]) {
  return frames.flatMap((frame) =>
    frame.fields
      .filter((field: any) => field.type === FieldType.number)
      .map((field: any) => {
        const display = field.display ?? getDisplayProcessor({ field, theme });
        const last = [...field.values].reverse().find((it) => it !== null && !Number.isNaN(it));
        const value = { ...display(last), title: getFieldDisplayName(field, frame, frames) };
        return { field, display, value, frame };
      }),
  );
}

function Body({ panel, width, height }: any) {
  const [frames, setFrames] = useState<any[]>();
  const [fault, setFault] = useState<unknown>();
  useEffect(() => void buildFrames(panel).then(setFrames, setFault), [panel]);
  if (fault) return <Note text={String(fault)} />;
  if (!frames) return null;
  if (panel.type === "heatmap") {
    return <Note text="Heat map: its panel is no library, so it is not drawn here" />;
  }
  if (!frames.some((frame) => frame.length)) return <Note text={panel.fieldConfig.defaults.noValue} />;
  if (panel.type === "timeseries") {
    const { legend } = panel.options;
    const shown = { ...legend, displayMode: "list", calcs: [] };
    return <TimeSeries frames={frames} {...{ width, height, timeRange }} timeZone="utc" legend={shown} options={panel.options} />;
  }
  if (panel.type === "table") return <TableNG data={frames[0]} {...{ width, height }} cellHeight={"sm" as any} enableVirtualization={false} />;
  const values = listValues(frames).slice(0, 9);
  const part = Math.floor(height / values.length);
  if (panel.type === "bargauge") {
    const highest = Math.max(...values.map((it) => it.value.numeric));
    return values.map(({ field, display, value }, index) => (
      <BarGauge
        key={index}
        {...{ width, theme, value, display }}
        height={Math.min(part - 4, 40)}
        field={{ ...field.config, min: 0, max: highest }}
        orientation={"horizontal" as any}
        displayMode={"basic" as any}
        showUnfilled
      />
    ));
  }
  return values.map(({ field, value, frame }, index) => {
    const sparkline =
      panel.options.graphMode === "area" ? { y: field, x: frame.fields.find((it: any) => it.type === FieldType.time) } : undefined;
    const shown = values.length > 1 ? value : { ...value, title: undefined };
    return (
      <BigValue
        key={index}
        {...{ width, theme, sparkline }}
        value={shown}
        height={part}
        colorMode={"value" as any}
        graphMode={panel.options.graphMode}
        justifyMode={"auto" as any}
      />
    );
  });
}

function Note({ text }: { text: string }) {
  return <div style={{ color: theme.colors.text.secondary, padding: 16, textAlign: "center" }}>{text}</div>;
}

function Board() {
  return board.panels.map((panel: any) => {
    const { x, y, w, h } = panel.gridPos;
    const width = w * CELL.width - CELL.gap;
    const height = h * CELL.height - CELL.gap;
    const place = { position: "absolute", left: x * CELL.width + CELL.gap, top: y * CELL.height + CELL.gap, width, height } as const;
    if (panel.type === "row") {
      return <h4 key={panel.id} style={{ ...place, margin: 0, paddingTop: 8 }}>{panel.title}</h4>;
    }
    return (
      <div key={panel.id} style={place}>
        <PanelChrome title={panel.title} {...{ width, height }} padding={panel.type === "table" ? "none" : "md"}>
          {(innerWidth: number, innerHeight: number) => <Body panel={panel} width={innerWidth} height={innerHeight} />}
        </PanelChrome>
      </div>
    );
  });
}

await initPluginTranslations("loco");
document.body.style.cssText = `margin:0;background:${theme.colors.background.canvas};color:${theme.colors.text.primary};font:14px ${theme.typography.fontFamily}`;
createRoot(document.getElementById("root")!).render(
  createElement(ThemeContext.Provider, { value: theme }, createElement(GlobalStyles), createElement(Board)),
);
